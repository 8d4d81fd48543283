"""Functions of a block of runs as compiled programs, kept on disk so that a later process neither traces nor compiles them."""

from rlkl.training.programs.program import Kept, Program, are_kept, keep_in, static_part

__all__ = ["Kept", "Program", "are_kept", "keep_in", "static_part"]
