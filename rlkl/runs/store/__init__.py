"""Store of finished runs, unfinished runs and pretrained references, under fingerprints."""
