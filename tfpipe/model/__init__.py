"""Batches to probabilities: backbones, classifier, serving signatures."""
