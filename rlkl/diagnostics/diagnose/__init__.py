"""What the log-probabilities of a real run say: its KL, its sampler's mismatch, its groups, and its penalty."""
