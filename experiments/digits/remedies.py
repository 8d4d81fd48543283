"""Remedies against a favourite digit, each as the exact optimum that it leads to on either prompt."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from experiments.digits.optima import Prompt, anchored, biased, flattened, optimum, tempered

Remedy = Callable[[str, Prompt, float, float], Float[np.ndarray, " A"]]  # (direction, prompt, a, beta) -> policy
LOW, BETWEEN, RIGHT = -10.0, -1.6, 0.9
"""Thresholds of MARA: below every biased reward; between those of the rarest digit (-1.39) and of a fact's wrong answers
(-1.94); and just below the gold reward of a right answer."""
SPOKEN = (0.5, 0.3, 0.2)  # made up: how often the reference says "each 10%", its own distribution, and one twice as sharp


def nothing(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """The biased reward's optimum."""
    return biased(direction, prompt, weight, beta)


def temperature(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """It, sampled at temperature 1 + a/beta."""
    return tempered(biased(direction, prompt, weight, beta), 1.0 + weight / beta)


def bias_subtracted(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """The reward less a log pi_ref, which is the gold reward."""
    return optimum(direction, prompt.reference, prompt.gold, beta)


def bias_and_reference_subtracted(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """The reward less (a + beta) log pi_ref."""
    return biased(direction, prompt, -beta, beta)


def uniform_reference(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """The biased reward with the uniform policy as the reference of the penalty."""
    uniform = np.full_like(prompt.reference, 1.0 / len(prompt.reference))
    return optimum(direction, uniform, prompt.gold + weight * np.log(prompt.reference), beta)


def uniform_reference_bias_subtracted(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """The gold reward with the uniform policy as the reference of the penalty."""
    return optimum(direction, np.full_like(prompt.reference, 1.0 / len(prompt.reference)), prompt.gold, beta)


def mara_on_biased(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """MARA's algorithm 1 on the biased reward, with a threshold that every answer reaches."""
    reward = prompt.gold + weight * np.log(prompt.reference)
    return optimum(direction, prompt.reference, anchored(prompt, reward, LOW, beta), beta)


def mara_between(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """It, with a threshold that right answers alone reach."""
    reward = prompt.gold + weight * np.log(prompt.reference)
    return optimum(direction, prompt.reference, anchored(prompt, reward, BETWEEN, beta), beta)


def mara_2_between(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """MARA's algorithm 2 on the biased reward, with a threshold that right answers alone reach."""
    return flattened(direction, prompt, prompt.gold + weight * np.log(prompt.reference), BETWEEN, beta)


def mara(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """MARA's algorithm 1 on the gold reward, with a threshold that right answers alone reach."""
    return optimum(direction, prompt.reference, anchored(prompt, prompt.gold, RIGHT, beta), beta)


def mara_2(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """MARA's algorithm 2 on the gold reward, with a threshold that right answers alone reach."""
    return flattened(direction, prompt, prompt.gold, RIGHT, beta)


def spoken(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """Digits drawn from the distribution that the policy says when asked for one (verbalised sampling, Zhang et al. 2025).

    The answers are distributions: that of equal masses, the reference, and the reference squared, said with SPOKEN; the same
    bias acts on them. What is typical of such answers is an assumption, and the outcome follows it.
    """
    uniform = np.full_like(prompt.reference, 1.0 / len(prompt.reference))
    said = np.stack([uniform, prompt.reference, tempered(prompt.reference, 0.5)])
    choice = biased(direction, Prompt(np.array(SPOKEN), np.ones(3)), weight, beta)
    return choice @ said


REMEDIES: dict[str, Remedy] = {
    "none": nothing,
    "temperature 1 + a/beta": temperature,
    "- a log pi_ref": bias_subtracted,
    "- (a + beta) log pi_ref": bias_and_reference_subtracted,
    "KL to uniform": uniform_reference,
    "KL to uniform, - a log pi_ref": uniform_reference_bias_subtracted,
    "MARA 1 at -10": mara_on_biased,
    "MARA 1 at -1.6": mara_between,
    "MARA 2 at -1.6": mara_2_between,
    "- a log pi_ref, MARA 1": mara,
    "- a log pi_ref, MARA 2": mara_2,
    "verbalised distribution": spoken,
}
