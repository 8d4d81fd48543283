"""Tunix's KL penalty in the loss of its GRPO and in the rewards of its PPO, by its own policy losses and its PPO learner.

Arrays are [N, T], rewards [N], logits [N, T, V]. A policy loss takes a network: here one that returns the logits of the batch.
Of PPO, what runs on a cluster is replaced, and the critic says 0 everywhere. Its learner adds the rewards to an array of
integers, so that they lose their fractions before the KL is subtracted. Tunix computes in float32.
"""

from importlib.metadata import version
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl.algo_core import grpo_loss_fn, ppo_policy_loss_fn
from tunix.rl.grpo.grpo_learner import GRPOConfig, TrainExample
from tunix.rl.ppo.ppo_learner import PPOConfig, PPOLearner

from experiments.conformance.rows import Row

LIBRARY = "Tunix"
VERSION = version("google-tunix")
SOURCE = (
    "tunix: rl.algo_core.grpo_loss_fn and ppo_policy_loss_fn, rl.grpo.grpo_learner.GRPOConfig, "
    "rl.ppo.ppo_learner.PPOLearner._generate_and_compute_advantage, rl.common"
)
NO_PADDING = -1  # an id that no token has


class Network(nnx.Module):
    """A network that returns these logits, whatever tokens it reads: one prompt token, then the response."""

    def __init__(self, logits):
        self.logits = nnx.Param(jnp.pad(logits, ((0, 0), (0, 1), (0, 0))))

    def __call__(self, tokens, positions, cache, attention_mask):
        return self.logits[...], cache


def grpo(logits, tokens, mask, ref_log_probs, advantages, beta, **config):
    """Return the loss of GRPO and its KL metrics. config: settings of `GRPOConfig`."""
    settings = GRPOConfig(beta=beta, **config)
    settings.temperature = 1.0  # as the learner sets it
    example = TrainExample(
        prompt_ids=jnp.zeros((len(tokens), 1), tokens.dtype),
        prompt_mask=jnp.ones((len(tokens), 1)),
        completion_ids=tokens,
        completion_mask=mask,
        advantages=advantages,
        ref_per_token_logps=ref_log_probs if beta else None,
        old_per_token_logps=None,
    )
    loss, metrics = grpo_loss_fn(Network(logits), example, settings, pad_id=NO_PADDING, eos_id=NO_PADDING)
    return loss, {name: metrics[name] for name in ("kl", "kl_loss", "ppo_kl")}


def kl(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k1 in the loss, averaged in each sequence first."""
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta)


def low_var_kl(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k3 in the loss, averaged in each sequence first."""
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, kl_loss_mode="low_var_kl")


def mse_kl(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k2 in the loss, averaged in each sequence first."""
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, kl_loss_mode="mse_kl")


def kl_token_mean(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k1 in the loss, averaged over tokens."""
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, loss_agg_mode="token-mean")


def kl_token_scale(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k1 in the loss, summed in each sequence, over the number of columns."""
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, loss_agg_mode="sequence-mean-token-scale")


def kl_token_sum(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k1 in the loss, summed in each sequence."""
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, loss_agg_mode="seq-mean-token-sum")


def low_var_kl_token_mean(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k3 in the loss, averaged over tokens."""
    config = {"kl_loss_mode": "low_var_kl", "loss_agg_mode": "token-mean"}
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, **config)


def low_var_kl_token_scale(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k3 in the loss, summed in each sequence, over the number of columns."""
    config = {"kl_loss_mode": "low_var_kl", "loss_agg_mode": "sequence-mean-token-scale"}
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, **config)


def low_var_kl_token_sum(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k3 in the loss, summed in each sequence."""
    config = {"kl_loss_mode": "low_var_kl", "loss_agg_mode": "seq-mean-token-sum"}
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, **config)


def low_var_kl_token_sum_norm(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k3 in the loss, summed over the batch, over the number of sequences."""
    config = {"kl_loss_mode": "low_var_kl", "loss_agg_mode": "sequence-mean-token-sum-norm"}
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, **config)


def low_var_kl_gspo(logits, tokens, mask, ref_log_probs, advantages, beta):
    """k3 in the loss of GSPO."""
    config = {"kl_loss_mode": "low_var_kl", "loss_algo": "gspo-token"}
    return grpo(logits, tokens, mask, ref_log_probs, advantages, beta, **config)


class Cluster:
    """The models of a PPO learner: a sampler that returns these tokens, their log-probabilities, and a critic of zeros."""

    global_steps = 0

    def __init__(self, tokens, pad_id, old_log_probs, ref_log_probs):
        size, horizon = tokens.shape
        self.tokens, self.old_log_probs, self.ref_log_probs = tokens, old_log_probs, ref_log_probs
        self.values = jnp.zeros((size, 1 + horizon))
        self.rollout = SimpleNamespace(pad_id=lambda: pad_id, eos_id=lambda: NO_PADDING)
        self.cluster_config = SimpleNamespace(rollout_config=SimpleNamespace(max_tokens_to_generate=horizon))
        self.metrics = {}

    def generate(self, **inputs):
        prompts = np.zeros((len(self.tokens), 1), int)
        return SimpleNamespace(tokens=np.asarray(self.tokens), left_padded_prompt_tokens=prompts, text=[""] * len(prompts))

    def get_ref_per_token_logps(self, **inputs):
        return self.ref_log_probs

    def get_old_per_token_logps(self, **inputs):
        return self.old_log_probs

    def get_values(self, **inputs):
        return self.values

    def buffer_metrics(self, metrics, mode):
        self.metrics |= metrics


def ppo(logits, tokens, mask, old_log_probs, ref_log_probs, rewards, beta, **config):
    """Return the loss of PPO and its KL metrics. config: settings of `PPOConfig`."""
    settings = PPOConfig(beta=beta, **config)
    pad_id = logits.shape[-1]  # a token of its own, which the network does not choose
    cluster = Cluster(jnp.where(mask > 0, tokens, pad_id), pad_id, old_log_probs, ref_log_probs)
    learner = SimpleNamespace(
        rl_cluster=cluster,
        algo_config=settings,
        metric_fns=[],
        _rollout_micro_batch_size=None,
        _compute_logps_micro_batch_size=None,
        _use_reward_model=False,
        _compute_rewards=lambda **inputs: np.asarray(rewards),
    )
    example = PPOLearner._generate_and_compute_advantage(learner, {"prompts": [""] * len(tokens)})
    lowest = jax.lax.stop_gradient(logits).min() - 50.0
    network = Network(jnp.pad(logits, ((0, 0), (0, 0), (0, 1)), constant_values=lowest))
    loss, _ = ppo_policy_loss_fn(network, example, settings, pad_id=pad_id, eos_id=NO_PADDING)
    name = "rewards/reward_kl_penalty"
    return loss, {name: cluster.metrics[name][0]} if beta else {}


def ppo_low_var_kl(logits, tokens, mask, old_log_probs, ref_log_probs, rewards, beta):
    """k3 in the reward of PPO, GAE with gae_lambda=0.95 and a critic of zeros."""
    return ppo(logits, tokens, mask, old_log_probs, ref_log_probs, rewards, beta)


def ppo_kl_lambda_1(logits, tokens, mask, old_log_probs, ref_log_probs, rewards, beta):
    """k1 in the reward of PPO, GAE with gae_lambda=1 and a critic of zeros."""
    return ppo(logits, tokens, mask, old_log_probs, ref_log_probs, rewards, beta, kl_method="kl", gae_lambda=1.0)


K1_SAYS, K2_SAYS, K3_SAYS = "unbiased, high variance", "biased, low variance", "unbiased, low variance"
ROWS = (
    Row("default (GRPO, kl_loss_mode=kl)", kl, K1_SAYS),
    Row("kl_loss_mode=low_var_kl", low_var_kl, K3_SAYS),
    Row("kl_loss_mode=mse_kl", mse_kl, K2_SAYS),
    Row("loss_agg_mode=token-mean", kl_token_mean, K1_SAYS),
    Row("loss_agg_mode=sequence-mean-token-scale", kl_token_scale, K1_SAYS),
    Row("loss_agg_mode=seq-mean-token-sum", kl_token_sum, K1_SAYS),
    Row("kl_loss_mode=low_var_kl, loss_agg_mode=token-mean", low_var_kl_token_mean, K3_SAYS),
    Row("kl_loss_mode=low_var_kl, loss_agg_mode=sequence-mean-token-scale", low_var_kl_token_scale, K3_SAYS),
    Row("kl_loss_mode=low_var_kl, loss_agg_mode=seq-mean-token-sum", low_var_kl_token_sum, K3_SAYS),
    Row("kl_loss_mode=low_var_kl, loss_agg_mode=sequence-mean-token-sum-norm", low_var_kl_token_sum_norm, K3_SAYS),
    Row("kl_loss_mode=low_var_kl, loss_algo=gspo-token", low_var_kl_gspo, K3_SAYS),
    Row("PPO (kl_method=low_var_kl, gae_lambda=0.95), with a critic of zeros", ppo_low_var_kl, K3_SAYS),
    Row("PPO, kl_method=kl, gae_lambda=1, with a critic of zeros", ppo_kl_lambda_1, K1_SAYS),
)
