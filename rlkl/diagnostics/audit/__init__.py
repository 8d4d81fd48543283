"""What the expected gradient of a penalty descends, measured."""
