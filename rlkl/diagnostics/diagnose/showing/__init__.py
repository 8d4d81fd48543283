"""What a person sees of a diagnosis: sentences, tables, figures, a page, a JSON file, a run in wandb."""
