"""Training: precision and XLA policy, loop, checkpoints."""
