"""From Hydra's config to a checked run, and the process that it is to run in. Nothing is imported here: the machine is set up
before jax is."""
