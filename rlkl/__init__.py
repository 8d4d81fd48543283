"""A testbed for KL regularization in RLHF: every run is graded against an exact optimum.

import rlkl
rlkl.train(["task=bandit/two_modes", "penalty.beta=0.2"]).summary["regret"]
rlkl.load("outputs/...")          # pandas frames of a run or a sweep
rlkl.load_policy("outputs/...")   # the trained policy of a run
rlkl.grade(["my_penalty.py"])     # a penalty's scorecard
rlkl.compare("base.npz", "quant.npz")   # the KL divergences between two models: arrays, llama.cpp, servers, Hugging Face
rlkl.check_loss(my_loss)          # what the KL penalty of a PyTorch or JAX loss descends
rlkl.assert_descends(my_loss, "kl_pi_ref")   # the same, as a line of a test
rlkl.diagnose("rollouts.jsonl")   # what the log-probabilities of a real run's rollouts say
rlkl.monitor()                    # the same numbers for a batch, inside of a training loop
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Diagnosis",
    "Report",
    "Result",
    "assert_descends",
    "check_loss",
    "compare",
    "diagnose",
    "grade",
    "load",
    "load_policy",
    "monitor",
    "train",
]

if TYPE_CHECKING:
    from rlkl.diagnostics.check.check import check_loss
    from rlkl.diagnostics.check.expect import assert_descends
    from rlkl.diagnostics.check.report import Report
    from rlkl.diagnostics.compare.comparison import Comparison, compare
    from rlkl.diagnostics.diagnose.diagnosis import Diagnosis, diagnose
    from rlkl.diagnostics.diagnose.monitor import monitor
    from rlkl.diagnostics.scorecard.command import grade
    from rlkl.runs.execute import Result, train
    from rlkl.runs.folder.checkpoint import load_policy
    from rlkl.runs.load import load

_MODULES = {
    "train": "rlkl.runs.execute",
    "Result": "rlkl.runs.execute",
    "load": "rlkl.runs.load",
    "load_policy": "rlkl.runs.folder.checkpoint",
    "grade": "rlkl.diagnostics.scorecard.command",
    "check_loss": "rlkl.diagnostics.check.check",
    "Report": "rlkl.diagnostics.check.report",
    "assert_descends": "rlkl.diagnostics.check.expect",
    "compare": "rlkl.diagnostics.compare.comparison",
    "Comparison": "rlkl.diagnostics.compare.comparison",
    "diagnose": "rlkl.diagnostics.diagnose.diagnosis",
    "Diagnosis": "rlkl.diagnostics.diagnose.diagnosis",
    "monitor": "rlkl.diagnostics.diagnose.monitor",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import rlkl` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rlkl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)
