"""Rewards fitted to preferences: simulated annotators, Bradley-Terry models and reward networks."""
