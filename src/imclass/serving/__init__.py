"""Exported or trained model + pictures of any size -> labelled probabilities, for those who use a model."""
