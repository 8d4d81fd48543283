"""Compose and check a run's config, and set up the process that runs it.

Nothing is imported here: the machine is set up before jax is imported.
"""
