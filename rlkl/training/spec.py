"""What is trained: a run's settings, task and reference as one tree, whose structure is all that is static."""

from dataclasses import fields, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import algorithms, policies, settings
from rlkl.exact import Objective
from rlkl.penalties import options
from rlkl.policies import AnyPolicy
from rlkl.policies.base import cast
from rlkl.tasks.automaton import Task

for _cls in (*settings.GROUPS.values(), settings.Settings):
    _data = [f.name for f in fields(_cls) if f.metadata.get("traced") or f.name in settings.GROUPS]
    jax.tree_util.register_dataclass(_cls, _data, [f.name for f in fields(_cls) if f.name not in _data])


class Run(eqx.Module):
    """What is trained: everything traced is a leaf, everything static is in the tree's structure.

    code: the registered functions behind the settings' names, so that a plugin that was edited is compiled anew. typical:
    whether the task has a typicality reward, which decides how its optimum is found. reference: fixed; it grades the run.
    """

    settings: settings.Settings
    task: Task
    reference: AnyPolicy
    code: tuple = eqx.field(static=True)
    typical: bool = eqx.field(static=True)


def make_run(chosen: settings.Settings, task: Task, reference: AnyPolicy | None = None) -> Run:
    """The run of resolved settings on a task (its arrays on the host); without a reference, the task's own grades it."""
    code = (
        options.divergence(chosen.penalty),
        policies.REGISTRY[chosen.policy.name],
        algorithms.REGISTRY.get(chosen.algorithm.name),
    )
    own = policies.Fixed(task.log_reference, task.automaton.horizon)
    return Run(chosen, task, own if reference is None else reference, code, bool(np.any(np.asarray(task.typicality) != 0.0)))


def objective(run: Run, beta: Float[Array, ""] | float | None = None) -> Objective:
    """The objective that a run names, at this coefficient, else at its own; the divergence's parameters are in float64."""
    penalty = run.settings.penalty
    div, params = options.divergence(penalty), options.parameters(penalty, jnp.float64)
    return Objective(run.task, run.reference, div, params, penalty.beta if beta is None else beta)


def support(run: Run) -> Array:
    """Bool["D V"]: the tokens that the policy may take."""
    legal = jnp.asarray(run.task.automaton.legal)
    return legal & (jnp.asarray(run.task.log_reference) > -jnp.inf) if run.settings.policy.support == "reference" else legal


def first_policy(run: Run, key: PRNGKeyArray, init: str | None = None) -> AnyPolicy:
    """Where `policy.init`, or another `init`, starts, in the run's dtype; beside a pretrained reference, `reference` is its
    copy."""
    chosen, dtype = run.settings, jnp.dtype(run.settings.dtype)
    low, init = cast(run, dtype), init or chosen.policy.init
    if chosen.reference.name == "pretrained" and init == "reference":
        return low.reference
    start = replace(low.settings.policy, init=init)
    return policies.REGISTRY[chosen.policy.name].build(start, low.task, support(run), key, dtype)
