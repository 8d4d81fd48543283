"""Penalties: their estimators, their terms in a loss, and what their expected gradient descends."""
