"""The scorecard: six scores of a penalty, measured on a fixed suite of tasks."""
