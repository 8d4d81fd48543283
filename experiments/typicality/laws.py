"""What annotators' taste for typical text makes of the optimum, exactly, and what their answers tell of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from rlkl import divergences, exact, oracle, policies, tasks
from rlkl.tasks import Task, annotators
from rlkl.tasks.annotators import Preferences

TASKS = {"bandit/words": {"reward": "letter", "letter": "e"}, "sequence/grammar": {}}
BIAS, BETAS = 0.57, np.geomspace(0.05, 3.0, 30)
PAIRS, SEEDS = 1_000, 100


def task(name: str) -> Task:
    """The task with its reward as gold."""
    made = tasks.build(name, **TASKS[name]).task
    return dataclasses.replace(made, gold=np.asarray(made.reward, np.float64))


def log_partition(made: Task, bias: float, beta: float) -> float:
    """log sum_y pi_ref(y)^(1 + bias/beta) e^(gold(y)/beta), by a backward recursion over tokens."""
    automaton = made.automaton
    log_ref = np.asarray(made.log_reference)
    power = np.where(log_ref > -np.inf, (1.0 + bias / beta) * np.where(log_ref > -np.inf, log_ref, 0.0), -np.inf)
    final = np.asarray(made.gold)[np.maximum(automaton.next_state, 0)] / beta
    ahead = np.full(automaton.decisions + 1, -np.inf)
    for t in range(automaton.horizon - 1, -1, -1):
        onward = np.where(automaton.ends_at(t), final, ahead[automaton.inner_next])
        ahead = np.append(np.logaddexp.reduce(power + onward, axis=1), -np.inf)
    return float(ahead[automaton.start])


def curve(name: str, bias: float) -> pd.DataFrame:
    """Entropy of the exact optimum over beta."""
    made = dataclasses.replace(task(name), typicality=np.asarray(bias))
    div, params = divergences.REGISTRY["kl_pi_ref"], divergences.Params()
    with jax.enable_x64(True):
        reference = policies.Fixed(jnp.asarray(made.log_reference), made.automaton.horizon)

        def entropy(beta):
            log_pi = oracle.solve(made, div, params, beta, reference, bias != 0.0).log_pi
            return exact.values(made, div, params, log_pi, reference.table()).entropy

        found = np.asarray(jax.jit(jax.vmap(entropy))(jnp.asarray(BETAS)))
    return pd.DataFrame({"panel": "curve", "task": name, "bias": bias, "beta": BETAS, "entropy": found})


def recovered(name: str) -> pd.DataFrame:
    """The bias that each of SEEDS sets of answers tells, and its standard error."""
    made, rows = task(name), []
    for seed in range(SEEDS):
        told = annotators.recovered(made, annotators.ask(made, Preferences(BIAS, 1.0), PAIRS, seed))
        rows.append(
            {"panel": "recovered", "task": name, "seed": seed} | dict(zip(("told", "stderr"), told or (), strict=False))
        )
    return pd.DataFrame(rows)
