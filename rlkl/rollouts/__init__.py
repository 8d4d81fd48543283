"""Weighted sequences, and the log-probabilities of policies along them."""
