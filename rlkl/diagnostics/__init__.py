"""What checks a penalty, a run or two models."""
