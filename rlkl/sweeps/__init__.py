"""Hydra sweeps whose jobs are trained together, as one program."""
