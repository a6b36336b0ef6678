"""LoadedRun runs: train one, load it, calibrate it, cross-validate, combine."""
