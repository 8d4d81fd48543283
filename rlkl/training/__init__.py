"""Training: losses, the training loop, and blocks of runs that share one compiled program."""
