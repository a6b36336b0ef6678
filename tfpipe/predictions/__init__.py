"""Predictions of unlabelled images.

`prediction` divides a source into chunks and gathers their results, `chunk` classifies one. What
classifies is an `ImageClassifier`: `run`, `export` or `server`. `table` and `formats` say what is
written, `output` writes it.
"""
