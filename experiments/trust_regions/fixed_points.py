"""Whether the exact optimum is a fixed point of a method: its expected gradient there, by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.trust_regions import methods, paths
from rlkl.diagnostics.audit import trust_regions
from rlkl.exact import optimal_policy
from rlkl.policies import tempered
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.training import spec

TEMPERATURES = {"the optimum": 1.0, "the optimum at temperature .8": 0.8}


def pulls(task: str) -> dict[tuple[str, str], float]:
    """By method and sampler, the norm of the expected gradient at the optimum, over that of the objective at the reference.

    The samplers are the optimum itself, and the optimum at temperature .8. Needs x64.
    """
    named = methods.methods(task)
    runs = tuple(jax.tree.map(jnp.asarray, paths.run_of(task, given)) for given in named.values())
    plain, legal = runs[0], jnp.asarray(runs[0].task.automaton.legal)
    best = optimal_policy.solve(spec.objective(plain)).log_pi
    assert best is not None
    optimum, reference = (Tabular(jnp.where(legal, table, 0.0), legal) for table in (best, plain.reference.table()))
    scale = float(np.linalg.norm(trust_regions.exact_gradient(plain, reference)))
    found: dict[tuple[str, str], float] = {}
    for name, temperature in TEMPERATURES.items():
        sampler, listed = tempered(optimum, temperature), enumerate_all(plain.task.automaton)
        batch = listed._replace(weight=np.exp(scoring.log_probability(sampler, listed)))
        gradients = trust_regions.measure(runs, optimum, batch, scoring.token_log_probability(sampler, listed)).gradient
        norms = np.linalg.norm(np.asarray(gradients), axis=1) / scale
        found |= {(method, name): float(norm) for method, norm in zip(named, norms, strict=True)}
    return found
