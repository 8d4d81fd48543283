"""The check: what the KL penalty of anybody's loss descends, from its expected gradient on small exact worlds."""
