"""torchtune's PPO: the KL penalty in the rewards, as its PPO recipe calls the library's functions.

Arrays are [N, T], rewards [N]. The recipe's critic is replaced by one that says 0 everywhere: with lmbda=1 advantages are then
the returns, with lmbda below 1 they leave out a part of what follows, as with any critic that has learned nothing yet.
"""

from importlib.metadata import version

import torch

from experiments.conformance.live.stand_in import stand_in
from experiments.conformance.rows import Row

stand_in("torchao")  # quantised weights

from torchtune.rlhf import estimate_advantages, get_rewards_ppo  # noqa: E402
from torchtune.rlhf.loss import PPOLoss  # noqa: E402

LIBRARY = "torchtune"
VERSION = version("torchtune")
SOURCE = "torchtune: rlhf.get_rewards_ppo, rlhf.estimate_advantages, rlhf.loss.PPOLoss"
PADDING = 1.0  # the log-probability that the recipe writes at padding


def lambda_95(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """kl_coeff with the recipe's lmbda of 0.95, and a critic of zeros."""
    return ppo(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, lmbda=0.95)


def lambda_1(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """kl_coeff with lmbda=1, and a critic of zeros."""
    return ppo(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, lmbda=1.0)


def ppo(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, lmbda):
    """Return the PPO loss on rewards that have the KL penalty in them, and the logged `kl`."""
    mask = mask.bool()
    log_probs, old_log_probs, ref_log_probs = (x.masked_fill(~mask, PADDING) for x in (log_probs, old_log_probs, ref_log_probs))
    token_rewards, kl, _ = get_rewards_ppo(rewards, old_log_probs, ref_log_probs, beta, score_positions(mask))
    values = torch.zeros_like(token_rewards)
    advantages, returns = estimate_advantages(values, token_rewards, gamma=1.0, lmbda=lmbda, masks=mask)
    loss = PPOLoss(epsilon=0.2)(
        old_log_probs, log_probs, advantages, values, values, returns, padding_masks=mask, value_padding_masks=mask
    )[0]
    return loss, {"kl": kl.sum(1).mean()}


def score_positions(mask):
    """Return where the recipe adds a sequence's score: one position after its last token, if that is neither first nor last."""
    width = mask.shape[1]
    last = width - 1 - mask.flip(1).long().argmax(1)
    return torch.where((last > 0) & (last < width - 1), last + 1, last)


ROWS = (
    Row("default (kl_coeff, lmbda=0.95), with a critic of zeros", lambda_95),
    Row("lmbda=1, with a critic of zeros", lambda_1),
)
