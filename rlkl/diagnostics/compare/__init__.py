"""Comparison of the next-token distributions of two models."""
