"""Gains of gold and proxy over the reference, in its standard deviations, and what a correlation guarantees of them."""

import numpy as np
from jaxtyping import Float

Rows = Float[np.ndarray, "*n A"]
Numbers = Float[np.ndarray, "*n"]


def standardised(p: Rows, values: Rows) -> Rows:
    """Values of the arms with mean 0 and standard deviation 1 under the reference p."""
    centred = values - np.sum(p * values, axis=-1, keepdims=True)
    return centred / np.sqrt(np.sum(p * np.square(centred), axis=-1, keepdims=True))


def chi_square(p: Rows, pi: Rows) -> Numbers:
    """Pearson's chi-square, sum (pi - p)^2/p."""
    return np.sum(np.square(pi - p) / p, axis=-1)


def published_bound(correlation: Numbers | float, proxy: Numbers, chi2: Numbers) -> Numbers:
    """The least gain of the gold reward by Laidlaw et al., (proxy - sqrt((1 - r^2) chi2))/r; r > 0 is the correlation.

    The proxy is r times the gold and a remainder of variance 1 - r^2; the mean of the remainder is at most sqrt(1 - r^2) times
    the norm of pi/p - 1.
    """
    return (proxy - np.sqrt((1.0 - np.square(correlation)) * chi2)) / correlation


def sharp_bound(correlation: Numbers | float, proxy: Numbers, chi2: Numbers) -> Numbers:
    """The least gain that the gold reward can have, r proxy - sqrt((1 - r^2)(chi2 - proxy^2)).

    The gold is r times the proxy and a remainder that is uncorrelated with it. Of pi/p - 1 the part along the proxy, of length
    `proxy`, does not move the remainder, so that only chi2 - proxy^2 counts. The gold of `worst_gold` attains the bound.
    """
    excess = np.maximum(chi2 - np.square(proxy), 0.0)
    return correlation * proxy - np.sqrt((1.0 - np.square(correlation)) * excess)


def worst_gold(p: Rows, pi: Rows, proxy: Rows, correlation: float) -> Rows:
    """The gold reward of this correlation with the standardised proxy that a policy earns least of."""
    ratio = pi / p - 1.0
    rest = ratio - np.sum(pi * proxy, axis=-1, keepdims=True) * proxy
    return correlation * proxy - np.sqrt(1.0 - correlation**2) * standardised(p, rest)


def random_golds(
    p: Float[np.ndarray, " A"], proxy: Float[np.ndarray, " A"], correlation: float, count: int, generator: np.random.Generator
) -> Float[np.ndarray, "N A"]:
    """Gold rewards whose remainders point in all directions alike, in the norm of the reference."""
    drawn = standardised(p, generator.normal(size=(count, len(p))) / np.sqrt(p))
    rest = standardised(p, drawn - np.sum(p * drawn * proxy, axis=1, keepdims=True) * proxy)
    return correlation * proxy + np.sqrt(1.0 - correlation**2) * rest
