"""Readers of rollouts: rlkl's own format, and files that other libraries and servers write."""
