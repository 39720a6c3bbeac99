"""Packed arrays + model -> trained model and its history."""
