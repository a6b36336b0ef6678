"""Evaluation of predicted probabilities: metrics, intervals, slices, comparisons, diagrams.

Everything takes labels int [n] and probabilities [n, C], and computes in float64 without
TensorFlow. To add a metric, register it in `tfpipe.evaluation.metrics`. It then appears in
metrics.json, in the tables and intervals of tfpipe.evaluate, in slices and comparisons, in the
model card, and in the requirements of tfpipe.export.
"""
