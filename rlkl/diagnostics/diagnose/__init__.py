"""Diagnosis of rollouts: what their log-probabilities say of KL, sampler, groups and penalty."""
