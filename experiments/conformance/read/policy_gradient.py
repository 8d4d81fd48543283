"""Parts of a policy gradient loss that several libraries share: means, advantages of one group, the clipped surrogate."""

import jax.numpy as jnp


def token_mean(values, mask):
    """Return the mean over all tokens of the batch."""
    return (values * mask).sum() / mask.sum()


def sequence_mean(values, mask):
    """Return the mean over sequences of each sequence's mean over its tokens."""
    return ((values * mask).sum(1) / mask.sum(1)).mean()


def standardized(rewards, epsilon=1e-6):
    """Return the rewards less their mean, over their sample standard deviation plus `epsilon`."""
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + epsilon)


def leave_one_out(rewards):
    """Return each reward less the mean of the others."""
    return (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)


def whitened(values, mask, ddof=1):
    """Return the values of all tokens less their mean, over their standard deviation."""
    centred = values - token_mean(values, mask)
    variance = (centred**2 * mask).sum() / (mask.sum() - ddof)
    return centred / jnp.sqrt(variance + 1e-8) * mask


def at_last_token(rewards, mask):
    """Return [N, T]: each sequence's reward on its last token, 0 elsewhere."""
    last = jnp.arange(mask.shape[1]) == mask.sum(1)[:, None] - 1
    return rewards[:, None] * last


def reward_to_go(token_rewards):
    """Return the sum of each token's reward and of all later ones."""
    return jnp.cumsum(token_rewards[:, ::-1], axis=1)[:, ::-1]


def clipped_surrogate(log_probs, old_log_probs, advantages, low=0.2, high=0.2):
    """Return PPO's clipped surrogate of each token, to be minimised; `advantages` is [N] or [N, T]."""
    advantages = advantages[:, None] if advantages.ndim == 1 else advantages
    ratio = jnp.exp(log_probs - old_log_probs)
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - low, 1 + high) * advantages)
