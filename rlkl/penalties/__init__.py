"""Penalties: their estimators, how they enter a loss, and what their expected gradient is."""
