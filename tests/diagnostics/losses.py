"""Losses as people write them, in PyTorch or JAX: correct ones, and ones with the known faults of KL penalties.

Each function takes the array library `xp` (`torch` or `jax.numpy`) with what `ops` adds, and returns a loss.
"""

from types import SimpleNamespace
from typing import Any


def ops(xp: Any) -> SimpleNamespace:
    """The functions that the two libraries spell differently."""
    if xp.__name__ == "torch":
        return SimpleNamespace(
            xp=xp,
            detach=lambda x: x.detach(),
            pick=lambda rows, tokens: xp.gather(rows, -1, tokens[..., None])[..., 0],
            log_softmax=lambda x: xp.log_softmax(x, -1),
            clip=xp.clamp,
            std=lambda x: x.std(correction=0),
            flip=lambda x: xp.flip(x, (1,)),
            roll=lambda x: xp.roll(x, 1, 1),
        )
    import jax

    return SimpleNamespace(
        xp=xp,
        detach=jax.lax.stop_gradient,
        pick=lambda rows, tokens: xp.take_along_axis(rows, tokens[..., None], -1)[..., 0],
        log_softmax=jax.nn.log_softmax,
        clip=xp.clip,
        std=xp.std,
        flip=lambda x: xp.flip(x, 1),
        roll=lambda x: xp.roll(x, 1, 1),
    )


def k3(u, xp):
    return xp.exp(-u) - 1 + u


def in_loss(o, estimate, ratio=False, aggregate="token mean", clip_ratio=False):
    """A policy-gradient loss with a penalty in the loss: estimate(u) for each token, times the ratio where asked."""
    xp = o.xp

    def loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta=0.1):
        r = xp.exp(log_probs - old_log_probs)
        gain = r * advantages
        if clip_ratio:
            gain = xp.minimum(gain, o.clip(r, 0.8, 1.2) * advantages)
        kl = estimate(log_probs - ref_log_probs) * (r if ratio else 1.0)
        tokens = (beta * kl - gain) * mask
        if aggregate == "token mean":
            return tokens.sum() / mask.sum()
        if aggregate == "constant":
            return tokens.sum() / (len(mask) * 3)
        if aggregate == "padded length":
            return tokens.sum() / (mask.shape[0] * mask.shape[1])
        if aggregate == "no mask":
            return (beta * kl - gain).mean()
        if aggregate == "sequence mean":
            return (tokens.sum(1) / mask.sum(1)).mean()
        return tokens.sum(1).mean()

    return loss


def in_reward(o, estimate=lambda u: u, baseline="none", level="token"):
    """REINFORCE with a penalty in the reward: reward-to-go by token, or one number a sequence; advantages made here."""
    xp = o.xp

    def loss(logprobs, old_logprobs, ref_logprobs, rewards, response_mask, kl_coef):
        kl = o.detach(estimate(old_logprobs - ref_logprobs)) * response_mask
        if level == "token":
            later = o.flip(xp.cumsum(o.flip(kl), 1))
            returns = rewards[:, None] - kl_coef * later
        else:
            returns = (rewards - kl_coef * kl.sum(1))[:, None] * xp.ones_like(kl)
        if baseline == "mean":
            returns = returns - rewards.mean()
        if baseline == "leave one out":
            score = rewards - kl_coef * kl.sum(1)
            returns = (score - (score.sum() - score) / (len(score) - 1))[:, None] * xp.ones_like(kl)
        return -(returns * xp.exp(logprobs - o.detach(logprobs)) * response_mask).sum(1).mean()

    return loss


def full(o, reverse=False, temperature=1.0, both=False):
    """The KL summed over the vocabulary at each token, from logits."""
    xp = o.xp

    def loss(logits, ref_logits, tokens, advantages, mask, beta):
        log_pi = o.log_softmax(logits / temperature)
        log_ref = o.log_softmax(ref_logits / (temperature if both else 1.0))
        kl = (xp.exp(log_ref) * (log_ref - log_pi)).sum(-1) if reverse else (xp.exp(log_pi) * (log_pi - log_ref)).sum(-1)
        return ((beta * kl - o.pick(o.log_softmax(logits), tokens) * advantages) * mask).sum() / mask.sum()

    return loss


def from_logits(o, temperature=1.0, shift=False):
    """k2 in the loss, with log-probabilities picked from logits."""

    def loss(logits, tokens, ref_log_probs, advantages, completion_mask, beta=0.04):
        picked = o.pick(o.log_softmax(logits / temperature), o.roll(tokens) if shift else tokens)
        kl = 0.5 * (picked - ref_log_probs) ** 2
        gain = advantages * o.pick(o.log_softmax(logits), tokens)
        return ((beta * kl - gain) * completion_mask).sum() / completion_mask.sum()

    return loss


def straight_through(o):
    """The value of k3 with the gradient of k2."""

    def estimate(u):
        value, slope = k3(u, o.xp), 0.5 * u**2
        return o.detach(value - slope) + slope

    return in_loss(o, estimate)


def standardised_together(o):
    """Rewards less the penalty of the sequence, standardised."""
    xp = o.xp

    def loss(logprobs, old_logprobs, ref_logprobs, rewards, response_mask, kl_coef):
        score = rewards - kl_coef * ((old_logprobs - ref_logprobs) * response_mask).sum(1)
        advantages = ((score - score.mean()) / (o.std(score) + 1e-8))[:, None]
        return -(advantages * xp.exp(logprobs - o.detach(logprobs)) * response_mask).sum(1).mean()

    return loss


def standardised_alone(o):
    """Standardised rewards, with a penalty outside of them."""

    def loss(log_probs, ref_log_probs, rewards, mask, beta):
        advantages = ((rewards - rewards.mean()) / o.std(rewards))[:, None]
        return ((beta * 0.5 * (log_probs - ref_log_probs) ** 2 - advantages * log_probs) * mask).sum(1).mean()

    return loss


def shifted_reference(o):
    """k2 of a token against the reference's log-probability of the token before."""

    def loss(log_probs, ref_log_probs, advantages, mask, beta):
        kl = 0.5 * (log_probs - o.roll(ref_log_probs)) ** 2
        return ((beta * kl - advantages * log_probs) * mask).sum() / mask.sum()

    return loss


def sequence_level(o, estimate, ratio=False):
    """A penalty of the log-ratio of the whole sequence, in the loss."""
    xp = o.xp

    def loss(log_probs, ref_log_probs, advantages, mask, beta):
        own, u = (log_probs * mask).sum(1), ((log_probs - ref_log_probs) * mask).sum(1)
        weight = xp.exp(own - o.detach(own)) if ratio else 1.0
        return (beta * estimate(u) * weight - (advantages * log_probs * mask).sum(1)).mean()

    return loss


def future_kl(o):
    """k2 of each token in the loss, with the later tokens' k1 as a return: the gradient of KL(pi‖pi_ref)."""
    xp = o.xp

    def loss(log_probs, ref_log_probs, advantages, mask, beta):
        u = (log_probs - ref_log_probs) * mask
        later = o.detach(o.flip(xp.cumsum(o.flip(u), 1)) - u)
        return ((beta * (0.5 * u**2 + later * log_probs) - advantages * log_probs) * mask).sum(1).mean()

    return loss


def as_dictionary(o):
    """A loss that returns a dictionary, and takes a batch as one."""

    def loss(batch, beta=0.1):
        u = batch["log_probs"] - batch["ref_log_probs"]
        mask = batch["mask"]
        kl = (0.5 * u**2 * mask).sum() / mask.sum()
        gain = (batch["advantages"] * batch["log_probs"] * mask).sum() / mask.sum()
        return {"loss": beta * kl - gain, "kl": kl, "ratio": o.xp.exp(u).mean()}

    return loss


def no_coefficient(o):
    """A penalty whose coefficient is 1."""

    def loss(log_probs, ref_log_probs, advantages, mask):
        return ((0.5 * (log_probs - ref_log_probs) ** 2 - advantages * log_probs) * mask).sum(1).mean()

    return loss


def no_rewards(o):
    """A penalty alone, for each token."""

    def kl_penalty(logprob, ref_logprob):
        return 0.5 * (logprob - ref_logprob) ** 2

    return kl_penalty


CORRECT = {  # what it descends, as `expect` takes it
    "k2 in the loss": ("semi_kl_pi_ref", lambda o: in_loss(o, lambda u: 0.5 * u**2)),
    "k2, clipped ratio": ("semi_kl_pi_ref", lambda o: in_loss(o, lambda u: 0.5 * u**2, clip_ratio=True)),
    "k2, sum over tokens": ("semi_kl_pi_ref", lambda o: in_loss(o, lambda u: 0.5 * u**2, aggregate="sum")),
    "k2, constant length": ("semi_kl_pi_ref", lambda o: in_loss(o, lambda u: 0.5 * u**2, aggregate="constant")),
    "k1 times the ratio": ("semi_kl_pi_ref", lambda o: in_loss(o, lambda u: u, ratio=True)),
    "k3 times the ratio": ("semi_kl_pi_ref", lambda o: in_loss(o, lambda u: k3(u, o.xp), ratio=True)),
    "k3 in the loss": ("semi_kl_ref_pi", lambda o: in_loss(o, lambda u: k3(u, o.xp))),
    "straight-through": ("semi_kl_pi_ref", straight_through),
    "full KL(pi‖pi_ref)": ("semi_kl_pi_ref", full),
    "full KL(pi_ref‖pi)": ("semi_kl_ref_pi", lambda o: full(o, reverse=True)),
    "k2 from logits": ("semi_kl_pi_ref", from_logits),
    "k1 in the reward": ("kl_pi_ref", in_reward),
    "k1 in the reward, mean baseline": ("kl_pi_ref", lambda o: in_reward(o, baseline="mean")),
    "k1 in the reward, of the sequence": ("kl_pi_ref", lambda o: in_reward(o, level="sequence")),
    "k1 in the reward, leave one out": ("kl_pi_ref", lambda o: in_reward(o, baseline="leave one out", level="sequence")),
    "standardised together": ("kl_pi_ref", standardised_together),
    "k2 of the sequence": ("kl_pi_ref", lambda o: sequence_level(o, lambda u: 0.5 * u**2)),
    "k3 of the sequence": ("kl_ref_pi", lambda o: sequence_level(o, lambda u: k3(u, o.xp))),
    "k3 of the sequence times the ratio": ("kl_pi_ref", lambda o: sequence_level(o, lambda u: k3(u, o.xp), ratio=True)),
    "k2 and the later tokens": ("kl_pi_ref", future_kl),
    "a dictionary": ("semi_kl_pi_ref", as_dictionary),
    "no coefficient": ("semi_kl_pi_ref", no_coefficient),
    "a penalty alone": ("semi_kl_pi_ref", no_rewards),
}

FAULTY = {  # the flag that names the fault, if any; world -> kind, divergence or part of what it descends; the loss
    "under no_grad": (
        "detached", {"bandit": "inert", "unequal": "inert"}, lambda o: in_loss(o, lambda u: o.detach(k3(u, o.xp))),
    ),
    "sign flipped": (
        "wrong_sign", {"bandit": "kl_pi_ref", "unequal": "kl_pi_ref"}, lambda o: in_loss(o, lambda u: -0.5 * u**2),
    ),
    "sign flipped in the reward": (
        "wrong_sign", {"bandit": "kl_pi_ref", "unequal": "kl_pi_ref"}, lambda o: in_reward(o, lambda u: -u),
    ),
    "k1 in the loss": (None, {"bandit": "inert", "unequal": "inert"}, lambda o: in_loss(o, lambda u: u)),
    "k3 in the reward": (
        None, {"bandit": "KL(pi‖pi_ref) - KL(pi_ref‖pi)"}, lambda o: in_reward(o, lambda u: k3(u, o.xp)),
    ),
    "mask ignored": (
        "padding", {"bandit": "kl_pi_ref"}, lambda o: in_loss(o, lambda u: 0.5 * u**2, aggregate="no mask"),
    ),
    "divided by the padded length": (
        "padding", {"unequal": "kl_pi_ref"}, lambda o: in_loss(o, lambda u: 0.5 * u**2, aggregate="padded length"),
    ),
    "k3, mean of means": (
        None, {"equal": "kl_ref_pi", "unequal": "each sequence divided by its length"},
        lambda o: in_loss(o, lambda u: k3(u, o.xp), aggregate="sequence mean"),
    ),
    "k1, mean of means": (
        None, {"equal": "inert", "unequal": "E[1/length]"}, lambda o: in_loss(o, lambda u: u, aggregate="sequence mean"),
    ),
    "k1 times the ratio, mean of means": (
        None, {"equal": "kl_pi_ref", "unequal": "divided by its length, and the gradient of E[1/length]"},
        lambda o: in_loss(o, lambda u: u, ratio=True, aggregate="sequence mean"),
    ),
    "standardised with the penalty": (
        "scaled_by_std", {"bandit": "kl_pi_ref", "unequal": "kl_pi_ref"}, standardised_together,
    ),
    "standardised without it": ("scaled_by_std", {"bandit": "kl_pi_ref"}, standardised_alone),
    "clamped k3": (
        "clamped", {"bandit": "kl_ref_pi", "extreme": "none"},
        lambda o: in_loss(o, lambda u: o.clip(k3(u, o.xp), -10.0, 10.0)),
    ),
    "clamped log-ratio in the reward": (
        "clamped", {"bandit": "kl_pi_ref", "extreme": "none"}, lambda o: in_reward(o, lambda u: o.clip(u, -10.0, 10.0)),
    ),
    "the wrong token": ("wrong_token", {"equal": "none"}, lambda o: from_logits(o, shift=True)),
    "the reference shifted by one": ("shifted", {"equal": "none"}, shifted_reference),
    "swapped": ("swapped", {"bandit": "pearson", "equal": "pearson"}, lambda o: in_loss(o, lambda u: k3(-u, o.xp))),
    "swapped, times the ratio": (
        "swapped", {"bandit": "χ²(pi‖pi_ref) - KL(pi‖pi_ref)"}, lambda o: in_loss(o, lambda u: k3(-u, o.xp), ratio=True),
    ),
    "temperature on one side": ("temperature", {"bandit": "none"}, lambda o: from_logits(o, temperature=0.7)),
    "temperature on one side of the full KL": (
        "nonzero_at_reference", {"bandit": "none"}, lambda o: full(o, temperature=0.7),
    ),
}  # fmt: skip
