"""Diagnostics: gradient audits of penalties, scorecards of penalties, and comparisons of two models."""
