"""OpenRLHF's KL penalty in the reward and in the loss, by its own experience maker and its actor's own training step.

Arrays are [N, T], rewards [N]. The training step runs whole. Replaced are the network, which returns the log-probabilities of
the batch, and the optimiser, which does nothing. With estimator=gae the critic says 0 everywhere.
"""

from importlib.metadata import version
from types import SimpleNamespace

import torch

from experiments.conformance.live.stand_in import stand_in
from experiments.conformance.rows import Row

stand_in("deepspeed", "flash_attn", "vllm", "aiohttp")  # CUDA kernels and servers

from openrlhf.models import PolicyLoss  # noqa: E402
from openrlhf.models.utils import compute_approx_kl, masked_mean  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer  # noqa: E402

LIBRARY = "OpenRLHF"
VERSION = version("openrlhf")
SOURCE = (
    "openrlhf: trainer.ray.ppo_actor.ActorPPOTrainer.training_step, "
    "trainer.ppo_utils.experience_maker.RemoteExperienceMaker.compute_advantages_and_returns, "
    "models.utils.compute_approx_kl, models.PolicyLoss"
)


class Actor:
    """A network that returns these log-probabilities."""

    def __init__(self, log_probs):
        self.log_probs = log_probs

    def __call__(self, *inputs, **options):
        return self.log_probs, None

    def train(self):
        """Nothing depends on the mode."""


class Strategy:
    """A training strategy that keeps the loss instead of updating by it."""

    ring_attn_group = None

    def backward(self, loss, actor, optimizer):
        self.loss = loss

    def optimizer_step(self, *optimizer, name):
        """Nothing is updated."""

    def get_grad_norm(self, actor):
        return 0.0


def training_step(log_probs, experience, beta, *, agg="token-mean", policy_loss="ppo", **kl):
    """Return the loss of the actor's training step, and the KL metrics that it logs. kl: settings of `algo.kl`."""
    kl = {"use_loss": False, "init_coef": beta, "estimator": "k1", "unbiased_gradient": False} | kl
    trainer = SimpleNamespace(
        actor=Actor(log_probs),
        strategy=Strategy(),
        args=SimpleNamespace(
            algo=SimpleNamespace(kl=SimpleNamespace(**kl)),
            train=SimpleNamespace(dynamic_batch_enable=False),
            actor=SimpleNamespace(entropy_coef=None),
        ),
        actor_loss_fn=PolicyLoss(token_level_loss=agg == "token-mean", policy_loss_type=policy_loss),
        replay_buffer=None,
        aux_loss=False,
        ema_model=None,
        actor_optim=None,
        actor_scheduler=SimpleNamespace(get_last_lr=lambda: [0.0]),
    )
    metrics = ActorPPOTrainer.training_step(trainer, experience, beta, step=0)["metrics"]
    return trainer.strategy.loss, {name: metrics[name].mean() for name in ("kl", "logprobs_diff", "ppo_kl") if name in metrics}


def in_reward(
    log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, *, estimator, kl="k1", no_std_norm=False
):
    """Return the loss with the KL in the reward, and the KL metrics. estimator: of advantages; kl: the KL estimator."""
    args = SimpleNamespace(
        algo=SimpleNamespace(
            advantage=SimpleNamespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=no_std_norm),
        ),
        rollout=SimpleNamespace(n_samples_per_prompt=group_size),
        reward=SimpleNamespace(clip_range=(-10, 10), overlong_buffer_len=None, stop_properly_penalty_coef=None),
    )
    controller, strategy = SimpleNamespace(value=beta), SimpleNamespace(args=args)
    maker = RemoteExperienceMaker(None, None, None, None, controller, strategy, None)
    token_kl = compute_approx_kl(old_log_probs, ref_log_probs, kl_estimator=kl)
    experience = Experience(
        index=list(range(len(mask))),
        action_log_probs=old_log_probs,
        action_mask=mask,
        values=torch.zeros_like(mask),
        rewards=rewards.clone(),
        kl=token_kl,
        info={"kl": masked_mean(token_kl, mask, dim=-1)},
    )
    (experience,) = maker.compute_advantages_and_returns([experience])
    return training_step(log_probs, experience, beta)


def in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, **settings):
    """Return the loss with `kl.use_loss`, and the KL metrics."""
    experience = Experience(
        action_log_probs=old_log_probs, base_action_log_probs=ref_log_probs, action_mask=mask, advantages=advantages
    )
    return training_step(log_probs, experience, beta, use_loss=True, **settings)


def gae(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k1 in the reward, GAE with lambd=1 and a critic of zeros; advantages are standardised over the batch."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="gae")


def reinforce(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k1 in the reward; returns are standardised over the batch."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="reinforce")


def reinforce_no_std_norm(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k1 in the reward; returns are centred over the batch."""
    return in_reward(
        log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="reinforce", no_std_norm=True
    )


def reinforce_baseline(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k1 in the reward; scores are centred in their group, then returns standardised over the batch."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="reinforce_baseline")


def rloo(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k1 in the reward; scores less the mean of the others in their group, to which the KL is added afterwards."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="rloo")


def group_norm(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k1 in the reward; scores are standardised in their group, and the KL is added afterwards."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="group_norm")


def dr_grpo(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k1 in the reward; scores are centred in their group, and the KL is added afterwards."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="dr_grpo")


def rloo_k2(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k2 in the reward of RLOO."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="rloo", kl="k2")


def rloo_k3(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta):
    """k3 in the reward of RLOO."""
    return in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, group_size, beta, estimator="rloo", kl="k3")


def k1(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k1 in the loss."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, estimator="k1")


def k2(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k2 in the loss."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, estimator="k2")


def k3(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, estimator="k3")


def k1_unbiased(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k1 in the loss, with the gradient of k2 times the ratio."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, estimator="k1", unbiased_gradient=True)


def k3_unbiased(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss, with the gradient of k2 times the ratio."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, estimator="k3", unbiased_gradient=True)


def k1_sequence_mean(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k1 in the loss, where the policy loss is averaged in each sequence first."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, estimator="k1", agg="seq-mean-token-mean")


def k3_sequence_mean(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss, where the policy loss is averaged in each sequence first."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, estimator="k3", agg="seq-mean-token-mean")


def k3_gspo(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """k3 in the loss of GSPO."""
    return in_loss(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta, estimator="k3", policy_loss="gspo")


K2_SAYS = "as a loss nearly equivalent to k1"
K3_SAYS = "the loss of GRPO"
UNBIASED_SAYS = "the true reverse-KL gradient"
ROWS = (
    Row("default (k1 in the reward, estimator=gae), with a critic of zeros", gae),
    Row("k1 in the reward, estimator=reinforce", reinforce),
    Row("k1 in the reward, estimator=reinforce, no_std_norm", reinforce_no_std_norm),
    Row("k1 in the reward, estimator=reinforce_baseline", reinforce_baseline),
    Row("k1 in the reward, estimator=rloo", rloo),
    Row("k1 in the reward, estimator=group_norm", group_norm),
    Row("k1 in the reward, estimator=dr_grpo", dr_grpo),
    Row("kl.estimator=k2 in the reward, estimator=rloo", rloo_k2),
    Row("kl.estimator=k3 in the reward, estimator=rloo", rloo_k3),
    Row("kl.use_loss, kl.estimator=k1", k1),
    Row("kl.use_loss, kl.estimator=k2", k2, K2_SAYS),
    Row("kl.use_loss, kl.estimator=k3", k3, K3_SAYS),
    Row("kl.use_loss, kl.estimator=k1, kl.unbiased_gradient", k1_unbiased, UNBIASED_SAYS),
    Row("kl.use_loss, kl.estimator=k3, kl.unbiased_gradient", k3_unbiased, UNBIASED_SAYS),
    Row("kl.use_loss, kl.estimator=k1, loss_agg_mode=seq-mean-token-mean", k1_sequence_mean),
    Row("kl.use_loss, kl.estimator=k3, loss_agg_mode=seq-mean-token-mean", k3_sequence_mean, K3_SAYS),
    Row("kl.use_loss, kl.estimator=k3, policy_loss_type=gspo", k3_gspo, K3_SAYS),
)
