"""Trained model + test split -> predictions, metrics, figures."""
