"""How good predicted probabilities are: measures, their intervals, slices, comparisons, curves.

All of it takes labels int [n] and probabilities [n, C], and computes in float64 without TensorFlow.
To add a measure, register it in `tfpipe.evaluation.measures`: metrics.json, the table of
tfpipe.evaluate, the intervals, the slices, the comparison of two runs, the model card and
--require of tfpipe.export then have it.
"""
