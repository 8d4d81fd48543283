"""How good a policy is, and how diverse: exact where the sequences can be listed, else estimated."""
