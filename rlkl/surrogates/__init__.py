"""Surrogate losses: what one update descends on each token, where the policy has left the one that samples came from.

In all of them r = pi(token)/pi_old(token) is the ratio, A the advantage, and sg(x) is x without its gradient. pi_old is the
policy that `algorithm.old_log_probs` names. At r = 1 every one of them but `clip_cov` has the gradient -A grad log pi.
"""

from rlkl.surrogates import clipped, covariance, divergence
from rlkl.surrogates.registry import REGISTRY, Surrogate, TokenLoss, option_names, register, token_loss

__all__ = [
    "REGISTRY",
    "Surrogate",
    "TokenLoss",
    "clipped",
    "covariance",
    "divergence",
    "option_names",
    "register",
    "token_loss",
]
