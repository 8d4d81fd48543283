"""The advantage of "Pass@k training" (Chen et al. 2025, arXiv 2508.10751) as its released code computes it, summed over groups.

Of a group of n samples with c successes, rho = 1 - C(n - c, k)/C(n, k) is the estimate of pass@k. The advantage of a success
is 1 - rho and that of a failure 1 - rho - C(n - c - 1, k - 1)/C(n - 1, k - 1), both divided by sqrt(rho (1 - rho)) + 1e-6. So
the code has it; that the undivided advantage is (1 - k/n)/k times the gradient of pass@k is derived here, and summed in
`slope`.
"""

import numpy as np
from scipy.special import comb
from scipy.stats import binom


def advantages(n: int, c: np.ndarray, k: int, divided: bool) -> tuple[np.ndarray, np.ndarray]:
    """The advantages of a success and of a failure in groups with c successes."""
    rho = 1.0 - comb(n - c, k) / comb(n, k)
    scale = np.sqrt(rho * (1.0 - rho)) + 1e-6 if divided else 1.0
    return (1.0 - rho) / scale, (1.0 - rho - comb(n - c - 1, k - 1) / comb(n - 1, k - 1)) / scale


def slope(n: int, k: int, p: float, divided: bool) -> float:
    """The expected policy gradient over the gradient of p, averaged over a group's samples."""
    others = np.arange(n)
    success, _ = advantages(n, others + 1, k, divided)
    _, failure = advantages(n, others, k, divided)
    return float(binom.pmf(others, n - 1, p) @ (success - failure))
