"""What the panels of the figure range over."""

import numpy as np

DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
BETAS = (0.1, 0.25, 0.5, 1.0, 2.0)
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
GRID = np.linspace(0.01, 0.5, 50)
FAVOURING = 0.3  # the annotators' share in the panel over beta
REFERENCES = (0.2, 0.5, 0.7)  # what the reference gives the minority's answer there
BETWEEN = 0.4  # a reference between the annotators' share and one half
PHRASINGS = np.array([1.0, 8.0])  # of the minority's answer and of the other one
COUNTS = (25, 50, 100, 200, 400)
RIDGE = 0.01  # the default of task.ridge
