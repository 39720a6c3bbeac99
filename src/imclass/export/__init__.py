"""Trained model -> files that run without imclass."""
