"""Functions of a block of runs as compiled programs, cached on disk: a later process neither traces nor compiles them."""

from rlkl.training.programs.program import Program, ProgramCache, has_cache, static_part, use_cache

__all__ = ["Program", "ProgramCache", "has_cache", "static_part", "use_cache"]
