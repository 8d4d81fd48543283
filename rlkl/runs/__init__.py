"""Train, store, record, track and load runs. Nothing is imported here: the process that tracks runs imports no jax."""
