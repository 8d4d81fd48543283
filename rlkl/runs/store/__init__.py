"""Runs, unfinished runs and pretrained references that are kept under a fingerprint."""
