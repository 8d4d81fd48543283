"""verl's KL penalty in the loss and in the reward, by its actor's own loss and the functions of its PPO trainer.

Arrays are [N, T], rewards and group_index [N]. With estimator=gae the critic says 0 everywhere.
"""

from importlib.metadata import version

import numpy as np
import torch

from experiments.conformance.live.stand_in import stand_in
from experiments.conformance.rows import Row

stand_in("uvicorn", "fastapi")  # servers

from tensordict import TensorDict  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.trainer.config import AlgoConfig  # noqa: E402
from verl.trainer.ppo.core_algos import FixedKLController  # noqa: E402
from verl.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage  # noqa: E402
from verl.utils.metric import reduce_metrics  # noqa: E402
from verl.utils.tensordict_utils import assign_non_tensor_data  # noqa: E402
from verl.workers.config import ActorConfig, PolicyLossConfig  # noqa: E402
from verl.workers.utils.losses import ppo_loss  # noqa: E402

LIBRARY = "verl"
VERSION = version("verl")
SOURCE = (
    "verl: workers.utils.losses.ppo_loss, workers.config.ActorConfig, trainer.ppo.ray_trainer.apply_kl_penalty and "
    "compute_advantage, trainer.ppo.core_algos"
)


def actor_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, **config):
    """Return the actor's loss and its KL metrics. config: settings of the actor and of its `policy_loss`."""
    policy_loss = PolicyLossConfig(**{name: config.pop(name) for name in ("loss_mode", "dro_beta") if name in config})
    actor = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=policy_loss, **config)
    size, horizon = mask.shape
    data = TensorDict(
        {
            "prompts": torch.zeros(size, 1, dtype=torch.long),
            "responses": torch.zeros(size, horizon, dtype=torch.long),
            "attention_mask": torch.ones(size, 1 + horizon, dtype=torch.long),
            "response_mask": mask.long(),
            "old_log_probs": old_log_probs,
            "ref_log_prob": ref_log_probs,
            "advantages": advantages,
        },
        batch_size=[size],
    )
    assign_non_tensor_data(data, "dp_size", 1)
    assign_non_tensor_data(data, "batch_num_tokens", None)
    assign_non_tensor_data(data, "global_batch_size", None)
    shifted = torch.nn.functional.pad(log_probs, (0, 1))  # verl reads a token's number at the position before it
    loss, metrics = ppo_loss(actor, {"log_probs": shifted.flatten()}, data)
    kl = {name: metrics[name] for name in ("kl_loss", "actor/ppo_kl") if name in metrics}
    return loss, reduce_metrics(kl)


def in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, **config):
    """Return the loss with `use_kl_loss`, and the KL metrics."""
    config = {"use_kl_loss": True, "kl_loss_coef": beta} | config
    return actor_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, **config)


def in_reward(
    log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta, *, estimator, kl_penalty="kl", std=True
):
    """Return the loss with `use_kl_in_reward`, and the KL metrics. std: whether GRPO divides by its group's spread."""
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    arrays = {
        "response_mask": mask.long(),
        "token_level_scores": torch.zeros_like(old_log_probs).scatter_(1, last[:, None], rewards[:, None]),
        "old_log_probs": old_log_probs,
        "ref_log_prob": ref_log_probs,
        "values": torch.zeros_like(old_log_probs),
        "uid": np.array(group_index).astype(object),
    }
    data, metrics = apply_kl_penalty(DataProto.from_single_dict(arrays), FixedKLController(beta), kl_penalty=kl_penalty)
    data = compute_advantage(data, estimator, norm_adv_by_std_in_grpo=std, config=AlgoConfig())
    loss, kl = actor_loss(log_probs, old_log_probs, ref_log_probs, data.batch["advantages"], mask)
    return loss, kl | {"actor/reward_kl_penalty": metrics["actor/reward_kl_penalty"]}


def low_var_kl(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss, bounded by 10."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, kl_loss_type="low_var_kl")


def kl(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k1 in the loss."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, kl_loss_type="kl")


def absolute(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """The absolute log-ratio in the loss."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, kl_loss_type="abs")


def mse(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k2 in the loss."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, kl_loss_type="mse")


def full(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """The KL over the whole vocabulary, which the config lists and the library does not implement."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, kl_loss_type="full")


def kl_plus(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k1's value in the loss, with the gradient of k2."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, kl_loss_type="kl+")


def mse_plus(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k2's value in the loss, with the gradient of k2."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, kl_loss_type="mse+")


def k3_plus(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3's value in the loss, with the gradient of k2."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, kl_loss_type="k3+")


def kl_sequence_mean(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k1 in the loss, averaged in each sequence first."""
    config = {"kl_loss_type": "kl", "loss_agg_mode": "seq-mean-token-mean"}
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, **config)


def kl_sequence_sum(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k1 in the loss, summed in each sequence."""
    config = {"kl_loss_type": "kl", "loss_agg_mode": "seq-mean-token-sum"}
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, **config)


def sequence_mean(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss, averaged in each sequence first."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_agg_mode="seq-mean-token-mean")


def sequence_sum(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss, summed in each sequence."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_agg_mode="seq-mean-token-sum")


def sequence_sum_norm(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss, summed in each sequence, over the number of columns."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_agg_mode="seq-mean-token-sum-norm")


def token_sum(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss, summed over the batch."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_agg_mode="token-sum")


def gspo(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of GSPO."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="gspo")


def sapo(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of SAPO, which averages its policy loss in each sequence first, whatever loss_agg_mode is."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="sapo")


def gpg(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of GPG."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="gpg")


def clip_cov(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of Clip-Cov, whose draw of the tokens that it leaves out is repeated at each call."""
    torch.manual_seed(0)
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="clip_cov")


def kl_cov(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of KL-Cov."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="kl_cov")


def geo_mean(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of GMPO, which averages its policy loss in each sequence first, whatever loss_agg_mode is."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="geo_mean")


def dppo_kl(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of DPPO, masked by the divergence from the sampler."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="dppo_kl")


def dro(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of DRO, with a quadratic penalty towards the sampler."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="dro", dro_beta=0.1)


def cispo(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of CISPO."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, loss_mode="cispo")


def gae(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta):
    """k1 in the reward; GAE with lam=1 and a critic of zeros, whitened over the batch."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta, estimator="gae")


def grpo(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta):
    """k1 in the reward; a sequence's total is standardised in its group."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta, estimator="grpo")


def grpo_no_std(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta):
    """k1 in the reward; a sequence's total is centred in its group."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta, estimator="grpo", std=False)


def rloo(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta):
    """k1 in the reward; a sequence's total less the mean of the others in its group."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta, estimator="rloo")


def reinforce_plus_plus(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta):
    """k1 in the reward; each token's return is whitened over the batch."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta, estimator="reinforce_plus_plus")


def grpo_low_var_kl(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta):
    """k3 in the reward, bounded by 10; a sequence's total is centred in its group."""
    settings = {"estimator": "grpo", "kl_penalty": "low_var_kl", "std": False}
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta, **settings)


def grpo_mse(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta):
    """k2 in the reward; a sequence's total is centred in its group."""
    settings = {"estimator": "grpo", "kl_penalty": "mse", "std": False}
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_index, beta, **settings)


PLUS_SAYS = "the unbiased KL gradient"
ROWS = (
    Row("default (use_kl_loss, kl_loss_type=low_var_kl)", low_var_kl),
    Row("kl_loss_type=kl", kl),
    Row("kl_loss_type=abs", absolute),
    Row("kl_loss_type=mse", mse),
    Row("kl_loss_type=full", full, "a kind of KL loss that can be chosen"),
    Row("kl_loss_type=kl+", kl_plus, PLUS_SAYS),
    Row("kl_loss_type=mse+", mse_plus, PLUS_SAYS),
    Row("kl_loss_type=k3+", k3_plus, PLUS_SAYS),
    Row("kl_loss_type=kl, loss_agg_mode=seq-mean-token-mean", kl_sequence_mean),
    Row("kl_loss_type=kl, loss_agg_mode=seq-mean-token-sum", kl_sequence_sum),
    Row("loss_agg_mode=seq-mean-token-mean", sequence_mean),
    Row("loss_agg_mode=seq-mean-token-sum", sequence_sum),
    Row("loss_agg_mode=seq-mean-token-sum-norm", sequence_sum_norm),
    Row("loss_agg_mode=token-sum", token_sum),
    Row("loss_mode=gspo", gspo),
    Row("loss_mode=sapo", sapo),
    Row("loss_mode=gpg", gpg),
    Row("loss_mode=clip_cov", clip_cov),
    Row("loss_mode=kl_cov", kl_cov),
    Row("loss_mode=geo_mean", geo_mean),
    Row("loss_mode=dppo_kl", dppo_kl),
    Row("loss_mode=dro, dro_beta=0.1", dro),
    Row("loss_mode=cispo", cispo),
    Row("use_kl_in_reward, adv_estimator=gae, with a critic of zeros", gae),
    Row("use_kl_in_reward, adv_estimator=grpo", grpo),
    Row("use_kl_in_reward, adv_estimator=grpo, norm_adv_by_std_in_grpo=False", grpo_no_std),
    Row("use_kl_in_reward, adv_estimator=rloo", rloo),
    Row("use_kl_in_reward, adv_estimator=reinforce_plus_plus", reinforce_plus_plus),
    Row("use_kl_in_reward, kl_penalty=low_var_kl, adv_estimator=grpo, norm_adv_by_std_in_grpo=False", grpo_low_var_kl),
    Row("use_kl_in_reward, kl_penalty=mse, adv_estimator=grpo, norm_adv_by_std_in_grpo=False", grpo_mse),
)
