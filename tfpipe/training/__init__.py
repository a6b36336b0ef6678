"""Training: run folder, stages, loop, checkpoints, losses, optimizers, devices."""
