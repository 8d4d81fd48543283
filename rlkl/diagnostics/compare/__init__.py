"""How far two models are apart."""
