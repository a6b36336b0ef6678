"""Predictions of images without labels: who makes them, how they go on, what they are written as.

A `Classifier` (a run, an export or a server) answers `Chunk`s of files, each of which leaves a file
in a work folder, so that a prediction that was ended goes on. A `Table` puts all answers in order,
and a format writes it.
"""
