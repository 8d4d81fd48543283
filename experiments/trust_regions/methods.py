"""The methods that are compared, as overrides, and the samplers that they are trained on."""

from typing import NamedTuple

from rlkl import surrogates
from rlkl.diagnostics.audit.trust_regions import CORRECTIONS

PLAIN = "uncorrected"
COVARIANCE = ["algorithm.cov_share=0.05"]  # the sources' .0002 of a batch of 64 is less than a token
EXTRA = {"clip_cov": [*COVARIANCE, "algorithm.cov_low=0.05", "algorithm.cov_high=5"], "kl_cov": COVARIANCE}
SURROGATES = {
    name: [f"algorithm.surrogate={name}", "algorithm.old_log_probs=reported", *EXTRA.get(name, [])]
    for name in surrogates.REGISTRY
    if name != "none"
}
WEIGHTS = {name: [f"penalty.{key}={value}" for key, value in chosen.items()] for name, chosen in CORRECTIONS.items()}
OF_SEQUENCES = tuple(name for name in WEIGHTS if name.startswith(("sequence", "geometric")))  # on a bandit: of tokens


class Sampler(NamedTuple):
    """A sampler: the policy of so many batches ago, at a temperature."""

    staleness: int
    temperature: float = 1.0


SAMPLERS = {f"staleness {old}": Sampler(old) for old in (0, 1, 4, 16)} | {"temperature .8": Sampler(0, 0.8)}


def methods(task: str) -> dict[str, list[str]]:
    """The overrides of every method of a task, by name."""
    named = SURROGATES | WEIGHTS
    return {name: given for name, given in named.items() if task != "bandit" or name not in OF_SEQUENCES}
