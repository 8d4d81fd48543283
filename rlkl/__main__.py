"""`python -m rlkl`."""

from rlkl.cli import entry

entry()
