"""What a person sees of runs."""
