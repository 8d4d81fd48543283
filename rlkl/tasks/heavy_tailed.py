"""Bandits whose reward is a gold reward plus an independent error, with a light or a heavy tail."""

import dataclasses
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float

from rlkl.errors import SettingsError
from rlkl.tasks.bandits import card
from rlkl.tasks.checks import choice, fits, number, whole
from rlkl.tasks.registry import Card, register

LEAST_TAIL = 1e-100  # so that the product of two such probabilities is a number


def cells(distribution: Any, count: int, tail: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The means and the probabilities of `count` cells of a symmetric distribution, in rising order.

    The cells' edges are equally spaced in normal scores, Phi^-1(F(x)), and the two outermost cells, of probability `tail` each,
    reach to infinity. A cell's value is the distribution's mean within it, so the mean is exact and the variance a little low.
    distribution: a frozen normal or Student's t of `scipy.stats`, centred at 0.
    """
    above = count // 2  # cells above 0; an odd count has one more around 0
    highest = scipy.stats.norm.isf(tail)
    scores = np.linspace(0.0 if count % 2 == 0 else highest / (count - 2), highest, above)
    beyond = scipy.stats.norm.sf(scores)  # the probability above each edge
    edges = distribution.isf(beyond)
    mass = beyond - np.append(beyond[1:], 0.0)
    part = _upper_expectation(distribution, edges)
    value = (part - np.append(part[1:], 0.0)) / mass
    middle = np.full(count % 2, 1.0 - 2.0 * mass.sum())
    return np.concatenate([-value[::-1], 0.0 * middle, value]), np.concatenate([mass[::-1], middle, mass])


def _upper_expectation(distribution: Any, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The integral of t f(t) from x to infinity: s^2 f(x) of a normal, (d s^2 + x^2) f(x)/(d - 1) of Student's t."""
    degrees, scale = distribution.kwds.get("df", np.inf), distribution.kwds["scale"]
    spread = scale**2 if np.isinf(degrees) else (degrees * scale**2 + x**2) / (degrees - 1.0)
    return spread * distribution.pdf(x)


@register("bandit/heavy_tailed")
def heavy_tailed(
    error="student_t", degrees=3.0, error_scale=1.0, error_size=1000, gold_scale=1.0, gold_size=100, tail=1e-12, typicality=0.0
) -> Card:
    """Reward = gold + independent error, with a normal gold reward and a Student t or normal error (Kwa et al. 2024).

    The paper is arXiv 2407.14503. An arm is a pair of a gold reward and an error, in `gold_size` x `error_size` cells, 100,000
    by default. The run is trained on the sum and also graded by the gold reward.

    degrees: degrees of freedom of the Student t; its variance is infinite up to 2. error_scale, gold_scale: standard deviation
    of a normal, scale of the Student t. tail: probability of the outermost cell on each side, whose value is the mean beyond
    its edge: at 1e-12 the largest error of a Student t with 3 degrees is 15,500, and that of a normal is 7.2.
    """
    kind = choice("task.error", error, ("student_t", "normal"))
    degrees = number("task.degrees", degrees, above=1)
    scales = [
        number(f"task.{key}", value, above=0) for key, value in (("error_scale", error_scale), ("gold_scale", gold_scale))
    ]
    sizes = [whole(f"task.{key}", value, at_least=4) for key, value in (("error_size", error_size), ("gold_size", gold_size))]
    fits("task.error_size", error_size, sizes[0] * sizes[1])
    tail = number("task.tail", tail, at_least=LEAST_TAIL)
    if tail > 0.1:
        raise SettingsError("task.tail", tail, "must be at most 0.1")
    errors = scipy.stats.t(df=degrees, scale=scales[0]) if kind == "student_t" else scipy.stats.norm(scale=scales[0])
    x, p_x = cells(errors, sizes[0], tail)
    v, p_v = cells(scipy.stats.norm(scale=scales[1]), sizes[1], tail)
    gold, error_of_arm = np.repeat(v, len(x)), np.tile(x, len(v))
    names = [f"gold {a:+.6g}, error {b:+.8g}" for a in v for b in x]
    reference = np.outer(p_v, p_x).ravel()
    built = card(gold + error_of_arm, reference / reference.sum(), names, typicality)
    return dataclasses.replace(built, task=dataclasses.replace(built.task, gold=np.concatenate([[0.0], gold])))
