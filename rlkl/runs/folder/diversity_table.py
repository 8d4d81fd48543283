"""Reference, policy and optimum side by side: what each is like, as named numbers. Nats; per token where the name says so."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rlkl.config.build import Built
from rlkl.evaluation import diversity
from rlkl.evaluation.final import TOP, Detail
from rlkl.evaluation.metrics import LAST_SAMPLES, unrounded
from rlkl.policies import Policy
from rlkl.rollouts import batch
from rlkl.runs.folder import samples
from rlkl.training.blocks import Trained

WHO = ("reference", "policy", "optimum")
ORDERS = (1, 2, 3)  # of distinct-n
TRIES = (1, 10, 100)  # k of pass@k
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the reward's quantiles
QUANTILES = tuple(f"reward_q{round(100 * level):02d}" for level in LEVELS)
OF_REWARDS = ("mode_mass", "mode_entropy", "mode_coverage", *(f"pass_at_{k}" for k in TRIES), *QUANTILES)


class DiversityTable(NamedTuple):
    """By name, each one's numbers; and the standard errors of the policy's, where it was sampled."""

    of: dict[str, dict[str, float]]
    stderr: dict[str, float]


def columns(trained: Trained) -> tuple[str, ...]:
    """The columns of a run's table: reference, policy and optimum, and the policy as decoded where a decoding rule is set."""
    return WHO if trained.final.decoded is None else (*WHO, "decoded")


def merged_outcomes(built: Built, trained: Trained) -> dict[str, np.ndarray]:
    """Reward, reference, policy and optimum of each named outcome, in state order: end states that differ only in what a
    policy remembers are one outcome."""
    ends = trained.final.outcomes
    # On a tree two sequences may have one text: they are one outcome only where they are worth the same.
    worth = (map(repr, each.tolist()) for each in (ends.reward, ends.gold) if each is not None)
    place: dict[tuple[str, ...], int] = {}
    at = np.array([place.setdefault(key, len(place)) for key in zip(built.card.outcomes, *worth, strict=True)])
    names = [name for name, *_ in place]
    merged: dict[str, np.ndarray] = {"outcome": np.array(names, object), "reward": np.zeros(len(names))}
    merged["reward"][at] = ends.reward
    for key in columns(trained):
        merged[key] = np.bincount(at, weights=np.asarray(getattr(ends, key)), minlength=len(names))
    if ends.gold is not None:
        merged["gold"] = np.zeros(len(names))
        merged["gold"][at] = ends.gold
    return merged


def is_sampled(built: Built, trained: Trained) -> bool:
    """Whether the policy's end states are frequencies in LAST_SAMPLES sequences."""
    if built.run.task.reward_model is not None:
        return True
    tables = isinstance(trained.state.policy, Policy) and isinstance(built.run.reference, Policy)
    return not tables and not batch.is_enumerable(built.run.task.automaton)


def diversity_metrics(built: Built, trained: Trained, written: Mapping[str, list[np.ndarray]]) -> DiversityTable:
    """Diversity metrics of reference, policy and optimum, from a run's final grade and its sampled sequences."""
    ends = merged_outcomes(built, trained)
    modes = diversity.modes(ends["reward"])
    of: dict[str, dict[str, float]] = {}
    for name in columns(trained):
        seen = trained.final.details.get(name)
        of[name] = {} if seen is None else _along(seen)
        if np.isfinite(ends[name]).all():
            of[name] |= _at_the_end(ends[name], ends["reward"], modes)
        if name in written:
            of[name] |= _corpus(built, written[name])
    estimates = _estimates(trained, ends, modes) if is_sampled(built, trained) else {}
    of["policy"] |= {name: estimate.value for name, estimate in estimates.items()}
    return DiversityTable(of, {name: estimate.stderr for name, estimate in estimates.items()})


def _along(seen: Detail) -> dict[str, float]:
    """Per sequence: tokens, entropy, KL to the reference, and E[log pi_ref] = -entropy - KL; then per token."""
    length = float(seen.alive.sum())
    sums = {"entropy": seen.entropy_at, "kl_pi_ref": seen.kl_at}
    entropy, kl = (float(unrounded(name, np.nansum(seen.alive * rows))) for name, rows in sums.items())
    named = {"length": length, "entropy": entropy, "effective_support": float(np.exp(entropy)), "kl_pi_ref": kl}
    named |= {"entropy_per_token": entropy / length, "kl_per_token": kl / length, "typicality": (0.0 - entropy - kl) / length}
    return named | {f"top_{k}_mass": float(mass) for k, mass in zip(TOP, seen.top_mass, strict=True)}


def _at_the_end(p: np.ndarray, reward: np.ndarray, modes: np.ndarray) -> dict[str, float]:
    """Of the end states: the modes (largest reward) and the reward's distribution; see `evaluation.diversity`. NaN where
    the reward is none of theirs."""
    if not np.isfinite(reward).all():
        return dict.fromkeys(OF_REWARDS, np.nan)
    named = {
        "mode_mass": diversity.mode_mass(p, modes),
        "mode_entropy": diversity.mode_entropy(p, modes),
        "mode_coverage": diversity.mode_coverage(p, modes),
    }
    named |= {f"pass_at_{k}": diversity.pass_at_k(p, modes, k) for k in TRIES}
    quantiles = diversity.reward_quantiles(p, reward, np.array(LEVELS))
    return named | dict(zip(QUANTILES, map(float, quantiles), strict=True))


def _corpus(built: Built, kept: list[np.ndarray]) -> dict[str, float]:
    """Of a fixed sample of texts: distinct-n and how far they compress."""
    named = {f"distinct_{n}": diversity.distinct(kept, n) for n in ORDERS}
    text = "\n".join(samples.text(built, tokens) for tokens in kept)
    return named | {
        "compression_zlib": diversity.compression_ratio(text, "zlib"),
        "compression_lzma": diversity.compression_ratio(text, "lzma"),
    }


def _estimates(trained: Trained, ends: dict[str, np.ndarray], modes: np.ndarray) -> dict[str, diversity.Estimate]:
    seen = trained.final.details["policy"]
    top = zip(TOP, seen.top_mass, seen.top_stderr, strict=True)
    named = {f"top_{k}_mass": diversity.Estimate(float(mass), float(error)) for k, mass, error in top}
    if not np.isfinite(ends["reward"]).all():
        return named
    counts = np.rint(ends["policy"] * LAST_SAMPLES).astype(np.int64)
    in_mode = counts[modes]
    hits = int(in_mode.sum())
    named |= {
        "mode_mass": diversity.mode_mass_estimate(hits, LAST_SAMPLES),
        "mode_entropy": diversity.mode_entropy_estimate(in_mode),
        "mode_coverage": diversity.mode_coverage_estimate(in_mode, LAST_SAMPLES),
    }
    return named | {f"pass_at_{k}": diversity.pass_at_k_estimate(LAST_SAMPLES, hits, k) for k in TRIES}


def csv_lines(table: DiversityTable) -> list[tuple[Any, ...]]:
    """The lines of diversity.csv, its header first: metric, reference, policy, optimum, the policy's standard error, and the
    policy as decoded where a rule is set."""
    names = dict.fromkeys(name for numbers in table.of.values() for name in numbers)
    beyond = [name for name in table.of if name not in WHO]
    header = ("metric", *WHO, "policy_stderr", *beyond)
    numbers = lambda name, of: tuple(table.of[each].get(name) for each in of)  # noqa: E731
    return [header, *((name, *numbers(name, WHO), table.stderr.get(name), *numbers(name, beyond)) for name in names)]
