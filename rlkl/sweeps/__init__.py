"""Train the jobs of a Hydra sweep together, as one program."""
