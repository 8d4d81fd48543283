"""One run, from its specification to its folder and back. Nothing is imported here: the process that tracks loads no jax."""
