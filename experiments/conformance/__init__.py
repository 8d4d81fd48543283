"""What the KL penalties of RLHF libraries descend: each library's losses, live or re-derived, through `rlkl check`."""
