"""Exported model -> a page and an HTTP endpoint that say what is on a picture."""
