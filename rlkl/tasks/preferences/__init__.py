"""Rewards that are fitted to preferences: annotators, what they prefer, and the model of it."""
