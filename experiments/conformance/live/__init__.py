"""Losses and trainers of installed libraries, each called in an environment of its own."""
