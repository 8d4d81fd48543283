"""Losses of libraries that were read at a commit and re-derived in JAX, not run."""
