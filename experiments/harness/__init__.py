"""What builds the experiments: their runs, figures, claims and page."""
