"""Speed: the same training work in rlkl, in eager PyTorch and in TRL, side by side."""
