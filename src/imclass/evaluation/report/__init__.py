"""A test of a model -> one HTML page that works offline."""
