"""Log runs with a tracker, wandb or another; whatever goes wrong there costs a warning and never stops training."""
