"""Labelled images of a source -> annotations -> packed arrays -> batches."""
