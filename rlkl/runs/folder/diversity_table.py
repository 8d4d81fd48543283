"""Compute the diversity metrics of reference, policy and optimum. In nats, per sequence unless the name says per token."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlkl.config.build import Built
from rlkl.evaluation import diversity
from rlkl.evaluation.metrics import LAST_SAMPLES, clip_rounding
from rlkl.evaluation.rows import TOP, Detail
from rlkl.exact import evaluation_method
from rlkl.runs.folder import samples
from rlkl.training.blocks import Trained

COLUMNS = ("reference", "policy", "optimum")
DISTINCT_N = (1, 2, 3)
PASS_AT_K = (1, 10, 100)
QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
QUANTILES = tuple(f"reward_q{round(100 * level):02d}" for level in QUANTILE_LEVELS)
REWARD_METRICS = ("mode_mass", "mode_entropy", "mode_coverage", *(f"pass_at_{k}" for k in PASS_AT_K), *QUANTILES)


class DiversityTable(NamedTuple):
    """Diversity metrics of a run.

    of: metrics by name, for each column (reference, policy, ...); stderr: standard errors of the policy's, if it was sampled.
    """

    of: dict[str, dict[str, float]]
    stderr: dict[str, float]


def columns(trained: Trained) -> tuple[str, ...]:
    """Return the columns of a run's table: reference, policy, optimum, and "decoded" if a decoding rule is set."""
    return COLUMNS if trained.final.decoded is None else (*COLUMNS, "decoded")


def merged_outcomes(built: Built, trained: Trained) -> dict[str, np.ndarray]:
    """Return each outcome's name, reward and probabilities, in state order, with end states of one outcome merged.

    "prompt", where there are several, is each outcome's number of prompt. End states are one outcome if they differ only in the
    tokens that a policy remembers.
    """
    ends = trained.final.outcomes
    # On a tree two sequences may have the same text: they are one outcome only if their rewards are equal, too.
    rewards = (map(repr, each.tolist()) for each in (ends.reward, ends.gold) if each is not None)
    index: dict[tuple[str, ...], int] = {}
    outcome = np.array([index.setdefault(key, len(index)) for key in zip(built.card.outcomes, *rewards, strict=True)])
    names = [name for name, *_ in index]
    merged: dict[str, np.ndarray] = {"outcome": np.array(names, object), "reward": np.zeros(len(names))}
    merged["reward"][outcome] = ends.reward
    for key in columns(trained):
        merged[key] = np.bincount(outcome, weights=np.asarray(getattr(ends, key)), minlength=len(names))
    if built.card.prompts:
        automaton = built.run.task.automaton
        merged["prompt"] = np.zeros(len(names), int)
        merged["prompt"][outcome] = automaton.prompt_of[automaton.outcomes]
    if ends.gold is not None:
        merged["gold"] = np.zeros(len(names))
        merged["gold"][outcome] = ends.gold
    return merged


def is_sampled(built: Built, trained: Trained) -> bool:
    """Tell whether the probabilities of the policy's end states are frequencies among LAST_SAMPLES samples."""
    policies = (trained.state.policy, built.run.reference)
    return evaluation_method(built.run.task.automaton, policies) == "samples"


def diversity_metrics(built: Built, trained: Trained, sequences: Mapping[str, list[np.ndarray]]) -> DiversityTable:
    """Compute the diversity metrics of reference, policy and optimum from a run's final grade and its sampled sequences."""
    ends = merged_outcomes(built, trained)
    modes = diversity.modes(ends["reward"])
    of: dict[str, dict[str, float]] = {}
    for name in columns(trained):
        detail = trained.final.details.get(name)
        of[name] = {} if detail is None else _token_metrics(detail)
        if np.isfinite(ends[name]).all():
            of[name] |= _outcome_metrics(ends[name], ends["reward"], modes)
            if built.card.prompts and np.isfinite(ends["reward"]).all():
                of[name] |= _mean_over_prompts(built, ends, name, modes)
        if name in sequences:
            of[name] |= _corpus_metrics(built, sequences[name])
    estimates = _estimates(trained, ends, modes) if is_sampled(built, trained) else {}
    if built.card.prompts:  # these estimates are of draws from one distribution
        estimates = {name: each for name, each in estimates.items() if name.startswith(("top_", "mode_mass"))}
    of["policy"] |= {name: estimate.value for name, estimate in estimates.items()}
    return DiversityTable(of, {name: estimate.stderr for name, estimate in estimates.items()})


def _token_metrics(detail: Detail) -> dict[str, float]:
    """Compute length, entropy and KL to the reference per sequence, then per token; E[log pi_ref] = -entropy - KL."""
    length = float(detail.alive.sum())
    sums = {"entropy": detail.entropy_at, "kl_pi_ref": detail.kl_at}
    entropy, kl = (float(clip_rounding(name, np.nansum(detail.alive * rows))) for name, rows in sums.items())
    metrics = {"length": length, "entropy": entropy, "effective_support": float(np.exp(entropy)), "kl_pi_ref": kl}
    metrics |= {"entropy_per_token": entropy / length, "kl_per_token": kl / length, "typicality": (0.0 - entropy - kl) / length}
    return metrics | {f"top_{k}_mass": float(mass) for k, mass in zip(TOP, detail.top_mass, strict=True)}


def _mean_over_prompts(built: Built, ends: dict[str, np.ndarray], name: str, modes: np.ndarray) -> dict[str, float]:
    """Compute the metrics of the modes as means over prompts, by their weights, of the metrics given the prompt.

    Entropy and coverage of modes are means over the prompts that have modes.
    """
    weights, metrics = built.run.task.automaton.prompt_weights, []
    for prompt, weight in enumerate(weights):
        of_prompt = ends["prompt"] == prompt
        p, in_mode = ends[name][of_prompt] / weight, modes[of_prompt]
        of_modes = {"mode_entropy": diversity.mode_entropy(p, in_mode), "mode_coverage": diversity.mode_coverage(p, in_mode)}
        metrics.append(of_modes | {f"pass_at_{k}": diversity.pass_at_k(p, in_mode, k) for k in PASS_AT_K})
    means = {}
    for key in metrics[0]:
        values = np.array([each[key] for each in metrics])
        known = np.isfinite(values)
        means[key] = float(weights[known] @ values[known] / weights[known].sum()) if known.any() else np.nan
    return means


def _outcome_metrics(p: np.ndarray, reward: np.ndarray, modes: np.ndarray) -> dict[str, float]:
    """Compute the metrics of the modes (outcomes of the largest reward) and of the reward's distribution.

    NaN where the reward is not a function of the end state. See `evaluation.diversity`.
    """
    if not np.isfinite(reward).all():
        return dict.fromkeys(REWARD_METRICS, np.nan)
    metrics = {
        "mode_mass": diversity.mode_mass(p, modes),
        "mode_entropy": diversity.mode_entropy(p, modes),
        "mode_coverage": diversity.mode_coverage(p, modes),
    }
    metrics |= {f"pass_at_{k}": diversity.pass_at_k(p, modes, k) for k in PASS_AT_K}
    quantiles = diversity.reward_quantiles(p, reward, np.array(QUANTILE_LEVELS))
    return metrics | dict(zip(QUANTILES, map(float, quantiles), strict=True))


def _corpus_metrics(built: Built, sequences: list[np.ndarray]) -> dict[str, float]:
    """Compute distinct-n and the compression ratios of sampled sequences."""
    metrics = {f"distinct_{n}": diversity.distinct(sequences, n) for n in DISTINCT_N}
    text = "\n".join(samples.text(built, tokens) for tokens in sequences)
    return metrics | {
        "compression_zlib": diversity.compression_ratio(text, "zlib"),
        "compression_lzma": diversity.compression_ratio(text, "lzma"),
    }


def _estimates(trained: Trained, ends: dict[str, np.ndarray], modes: np.ndarray) -> dict[str, diversity.Estimate]:
    detail = trained.final.details["policy"]
    top = zip(TOP, detail.top_mass, detail.top_stderr, strict=True)
    metrics = {f"top_{k}_mass": diversity.Estimate(float(mass), float(error)) for k, mass, error in top}
    if not np.isfinite(ends["reward"]).all():
        return metrics
    counts = np.rint(ends["policy"] * LAST_SAMPLES).astype(np.int64)
    in_mode = counts[modes]
    hits = int(in_mode.sum())
    metrics |= {
        "mode_mass": diversity.mode_mass_estimate(hits, LAST_SAMPLES),
        "mode_entropy": diversity.mode_entropy_estimate(in_mode),
        "mode_coverage": diversity.mode_coverage_estimate(in_mode, LAST_SAMPLES),
    }
    return metrics | {f"pass_at_{k}": diversity.pass_at_k_estimate(LAST_SAMPLES, hits, k) for k in PASS_AT_K}


def csv_lines(table: DiversityTable) -> list[tuple[Any, ...]]:
    """Return the lines of diversity.csv, its header first; "decoded" is a column only if a decoding rule is set."""
    names = dict.fromkeys(name for metrics in table.of.values() for name in metrics)
    decoded = [name for name in table.of if name not in COLUMNS]

    def cells(name: str, keys: Sequence[str]) -> tuple[float | None, ...]:
        return tuple(table.of[key].get(name) for key in keys)

    header = ("metric", *COLUMNS, "policy_stderr", *decoded)
    return [header, *((name, *cells(name, COLUMNS), table.stderr.get(name), *cells(name, decoded)) for name in names)]
