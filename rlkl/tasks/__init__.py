"""The tasks, and their registry."""

from rlkl.tasks import bandits, brackets, custom, grammar, heavy_tailed, motif, prompt_bandits, text, words
from rlkl.tasks.automaton import Automaton, Task
from rlkl.tasks.preferences import fitted_reward
from rlkl.tasks.registry import REGISTRY, Card, build, options, register

__all__ = [
    "REGISTRY",
    "Automaton",
    "Card",
    "Task",
    "bandits",
    "brackets",
    "build",
    "custom",
    "fitted_reward",
    "grammar",
    "heavy_tailed",
    "motif",
    "options",
    "prompt_bandits",
    "register",
    "text",
    "words",
]  # fmt: skip
