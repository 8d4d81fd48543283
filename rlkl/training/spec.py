"""A run as one JAX pytree: traced settings and arrays are its leaves, static settings are in its structure."""

from dataclasses import fields, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import algorithms, policies
from rlkl.exact import Objective
from rlkl.exact.utility import Group, PassAtK, Utility
from rlkl.penalties import options
from rlkl.policies import AnyPolicy
from rlkl.policies.base import cast, normalise, number_dtype
from rlkl.settings import GROUPS, Settings
from rlkl.tasks.automaton import Task

for _cls in (*GROUPS.values(), Settings):
    _data = [f.name for f in fields(_cls) if f.metadata.get("traced") or f.name in GROUPS]
    jax.tree_util.register_dataclass(_cls, _data, [f.name for f in fields(_cls) if f.name not in _data])


class Run(eqx.Module):
    """The run to train: traced settings and arrays are leaves, static settings are in the tree structure.

    reference: the fixed reference that the run is graded against. code: the registered functions behind the settings' names, so
    that an edited plugin is compiled anew. typical: whether the task has a typicality reward, which decides how its optimum is
    solved for.
    """

    settings: Settings
    task: Task
    reference: AnyPolicy
    code: tuple = eqx.field(static=True)
    typical: bool = eqx.field(static=True)


def make_run(settings: Settings, task: Task, reference: AnyPolicy | None = None) -> Run:
    """Make a run of resolved settings and a task with NumPy arrays; without a `reference`, the task's own is used."""
    code = (
        options.divergence(settings.penalty),
        policies.REGISTRY[settings.policy.name],
        algorithms.REGISTRY.get(settings.algorithm.name),
    )
    if reference is None:
        reference = policies.Fixed(task.log_reference, task.automaton.horizon)
    return Run(settings, task, reference, code, bool(np.any(np.asarray(task.typicality) != 0.0)))


def objective(run: Run, beta: Float[Array, ""] | float | None = None) -> Objective:
    """The run's objective at coefficient `beta` (default: `penalty.beta`), with the divergence's parameters in float64."""
    penalty = run.settings.penalty
    div, params = options.divergence(penalty), options.parameters(penalty, jnp.float64)
    return Objective(run.task, run.reference, div, params, penalty.beta if beta is None else beta)


def utility_group(settings: Settings) -> Utility | None:
    """The group whose utility of the success probability is maximised, or pass@k (objective=utility); else None."""
    if settings.objective == "reward":
        return None
    if settings.algorithm.pass_k is not None:
        return PassAtK(settings.algorithm.pass_k)
    return Group(settings.algorithm.group_size, settings.algorithm.std or "sample")


def gradient_kind(settings: Settings) -> str:
    """The kind of the reward's gradient (`algorithms.gradient_kind`), as a penalty in the loss sees it.

    With objective=utility the scale of advantages is part of the utility, and so no factor of the penalty's coefficient.
    """
    kind = algorithms.gradient_kind(settings.algorithm.name, settings.algorithm.scale_advantages)
    return "sampled" if kind == "scaled" and settings.objective == "utility" else kind


def support(run: Run) -> Array:
    """The tokens that the policy may take, as Bool["D V"]."""
    legal = jnp.asarray(run.task.automaton.legal)
    return legal & (jnp.asarray(run.task.log_reference) > -jnp.inf) if run.settings.policy.support == "reference" else legal


def uniform(run: Run) -> AnyPolicy:
    """The uniform policy over the tokens that the run's policy may take, in the run's dtype."""
    tokens = support(run)
    logits = jnp.zeros(tokens.shape, number_dtype(run.settings.dtype))
    return policies.Fixed(normalise(logits, tokens), run.task.automaton.horizon)


def first_policy(run: Run, key: PRNGKeyArray, init: str | None = None) -> AnyPolicy:
    """The policy at step 0, in the run's dtype, initialised as `init` (default: `policy.init`) says.

    With a pretrained reference, `reference` copies that reference.
    """
    settings, dtype = run.settings, run.settings.dtype
    cast_run, init = cast(run, dtype), init or settings.policy.init
    if settings.reference.name == "pretrained" and init == "reference":
        return cast_run.reference
    policy_settings = replace(cast_run.settings.policy, init=init)
    build = policies.REGISTRY[settings.policy.name].build
    return cast(build(policy_settings, cast_run.task, support(run), key, number_dtype(dtype)), dtype)
