"""From runs to the table: the end of every way of penalising, without noise and of each trained seed, against its own optimum
and against the optimum of what it descends."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import yaml

from experiments.wrong_gradient import fixed_points, targets
from rlkl import exact, settings
from rlkl.config.build import build
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.policies import AnyPolicy, base
from rlkl.rollouts import batch, scoring
from rlkl.runs.folder import checkpoint
from rlkl.runs.load import Runs
from rlkl.settings import numerics
from rlkl.training import loop, spec
from rlkl.training.spec import Run

TASKS = {"bandit/custom": "bandit", "automaton/custom": "ladder"}
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
NO_PENALTY = "no penalty"
COLUMNS = [
    "task", "direction", "way", "kind", "descends", "series", "seed", "regret", "to_own", "to_descended", "reward",
    "kl_pi_ref", "kl_ref_pi", "least", "gradient_norm", "end",
]  # fmt: skip
CORNER = 12.0  # nats behind the reference at which a sequence counts as lost: at these betas no optimum's falls that far


class Way(NamedTuple):
    """A run in float64 by the plainest algorithm; what its end is measured against: the divergence and coefficient that it is
    graded by; of each listed sequence its reward, log pi_ref, log pi of the optimum that it names and of the one that it
    descends (None: not known)."""

    run: Run
    divergence: str
    beta: float
    reward: np.ndarray
    log_ref: np.ndarray
    own: np.ndarray
    descended: np.ndarray | None


def table(runs: Runs) -> pd.DataFrame:
    """A row a policy. series: "reference" (once a task and direction), "descended" (once a way: its expected gradient, to the
    end), "trained" (a row a seed).

    regret: against the optimum of the divergence that the way names (without a penalty: as KL(pi‖pi_ref) at the other runs'
    coefficient). to_own and to_descended: total variation between whole sequences, to that optimum and to the optimum of what
    the way descends. least: log pi/pi_ref of the sequence that fell behind most. end: a fixed point, a corner (sequences are
    lost), or that it ran away.
    """
    rows: list[dict[str, Any]] = []
    ways: dict[tuple[str, str, str], Way] = {}
    betas = runs.summary.groupby("task")["beta"].max()
    with numerics.pinned():
        for _, graded in runs.summary.iterrows():
            folder = runs.root / graded["run"]
            run = build(yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))).run
            about = _about(run, graded["task"])
            place = {name: about[name] for name in ("task", "direction")}
            key = (*place.values(), about["way"])
            if key not in ways:
                way = ways[key] = way_of(run, about["direction"], float(betas[graded["task"]]))
                if not any(row["series"] == "reference" and place.items() <= row.items() for row in rows):
                    rows.append(place | {"series": "reference"} | _at(way, way.log_ref))
                rows.append(about | {"series": "descended"} | trained_row(way))
            policy = base.cast(checkpoint.load_policy(folder), jnp.float64)
            rows.append(about | {"series": "trained", "seed": graded["seed"]} | _at(ways[key], _listed(run, policy)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _about(run: Run, task: str) -> dict[str, Any]:
    chosen, horizon = run.settings.penalty, run.task.automaton.horizon
    found = expected_gradient(chosen, horizon)
    if chosen.divergence == "none":
        return {"task": TASKS[task], "direction": DIRECTIONS[0], "way": NO_PENALTY, "kind": "inert", "descends": found.says}
    said = {"direction": chosen.divergence, "way": label(chosen), "kind": found.kind, "descends": found.says}
    return {"task": TASKS[task]} | said


def label(chosen: settings.PenaltySettings) -> str:
    """A way in few words; on a bandit every term is of a whole sequence."""
    if chosen.sampler == "reference":
        return f"{chosen.estimator} on pi_ref's sequences"
    words = [f"{chosen.estimator} in {chosen.placement}"]
    words += [] if chosen.estimator in ("exact", "full", "score") else [str(chosen.level)]
    words += [] if chosen.gradient == "naive" else [chosen.gradient]
    words += ["immediate"] if chosen.credit == "immediate" else []
    return ", ".join(words) + (" + future KL" if chosen.future_kl else "")


def way_of(given: Run, divergence: str, beta: float) -> Way:
    plain = settings.AlgorithmSettings("reinforce", loss_aggregation=settings.AGGREGATIONS[0], epochs=1, surrogate="none")
    chosen = dataclasses.replace(given.settings, algorithm=plain, dtype="float64")
    run = jax.tree.map(jnp.asarray, spec.make_run(chosen, given.task))
    graded = dataclasses.replace(chosen, penalty=dataclasses.replace(chosen.penalty, beta=beta))
    own = targets.optimum(jax.tree.map(jnp.asarray, spec.make_run(graded, given.task)), divergence)
    listed = batch.enumerate_all(run.task.automaton)
    reward = jnp.sum(exact.sequence_rewards(run.task, listed, jnp.float64), axis=1)
    descended = targets.of(run)
    return Way(
        run, divergence, beta, np.asarray(reward), _listed(run, run.reference), np.asarray(own),
        None if descended is None else np.asarray(descended),
    )  # fmt: skip


def _listed(run: Run, policy: AnyPolicy) -> np.ndarray:
    """log pi(y) of every sequence."""
    return np.asarray(scoring.log_probability(policy, batch.enumerate_all(run.task.automaton)))


def trained_row(way: Way) -> dict[str, Any]:
    reached = fixed_points.descend(way.run, loop.start(way.run).policy)
    ran_away, lost = int(reached.steps) < fixed_points.STEPS, float(reached.least) < -CORNER
    end = "ran away" if ran_away else "corner" if lost else "fixed point"
    return _at(way, _listed(way.run, reached.policy)) | {"gradient_norm": float(reached.gradient_norm), "end": end}


def _at(way: Way, log_pi: np.ndarray) -> dict[str, float]:
    """The numbers of a policy."""
    to_descended = math.nan if way.descended is None else _apart(log_pi, way.descended)
    return {
        "regret": _objective(way, way.own) - _objective(way, log_pi),
        "to_own": _apart(log_pi, way.own),
        "to_descended": to_descended,
        "reward": float(np.exp(log_pi) @ way.reward),
        "kl_pi_ref": _kl(log_pi, way.log_ref),
        "kl_ref_pi": _kl(way.log_ref, log_pi),
        "least": float(np.min(log_pi - way.log_ref)),
    }


def _objective(way: Way, log_pi: np.ndarray) -> float:
    pair = (log_pi, way.log_ref) if way.divergence == "kl_pi_ref" else (way.log_ref, log_pi)
    return float(np.exp(log_pi) @ way.reward) - way.beta * _kl(*pair)


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    return float(np.exp(log_p) @ (log_p - log_q))


def _apart(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """Total variation."""
    return float(0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum())
