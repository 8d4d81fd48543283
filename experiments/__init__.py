"""Experiments: each folder holds the runs (`sweep.yaml`, data) and what they show (`figure.py`: pure functions)."""
