"""Training: the loop, the DeepSpeed wall, checkpoints, signals and metrics."""
