"""What is measured on rollouts: sums of each sequence, estimates with intervals, and one module for each question."""
