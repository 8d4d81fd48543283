"""Grades of a policy: its values, regret, distance to the optimum and diversity, exact where possible, else estimated."""
