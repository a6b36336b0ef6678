"""From a trained run to a version that a server may serve: written, checked, described."""
