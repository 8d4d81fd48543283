"""How good a penalty is, graded."""
