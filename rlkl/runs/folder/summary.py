"""Compute a run's history and summary, under the names that the files and wandb share."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlkl import policies
from rlkl.config.build import Built
from rlkl.evaluation import metrics
from rlkl.exact import Objective, methods, optimal_policy
from rlkl.runs.folder import diversity_table
from rlkl.runs.folder.diversity_table import DiversityTable
from rlkl.training import describe, spec
from rlkl.training.blocks import Trained
from rlkl.training.final_grade import Decoded
from rlkl.training.observe import Row

SCHEMA_VERSION = 1


ESTIMATES = (
    "reward", "objective", "optimal_objective", "regret", "divergence_value", "kl_pi_ref", "kl_ref_pi", "kl_pi_optimum",
    "entropy", "effective_support", "typicality", "kl_per_token", "length", "beta",
)  # fmt: skip
FIELDS = {"schema_version": int, "steps": int, "seconds": float, "exact": bool, "restricted": bool} | dict.fromkeys(
    ("divergence", "formula", "dtype", "init", "task", "policy", "algorithm"), str
)  # fields that every summary has, as well as the ESTIMATES
OF_OPTIMUM = ("reward", "divergence_value", "kl_pi_ref", "kl_ref_pi", "entropy", "effective_support")  # as optimum_<name>
PENALTY = ("estimator", "placement", "level", "credit", "gradient", "sampler", "controller")  # settings in a summary


def history(rows: Row) -> dict[str, Any]:
    """Return the logged rows as columns by name, `step` first, with a column `<name>_stderr` for each estimated one.

    In nats, per sequence unless the name says per token (typicality is per token).
    """
    report, values = rows.report, rows.report.values
    with np.errstate(invalid="ignore", over="ignore"):
        columns = {
            "step": np.asarray(rows.step),
            "reward": values.reward,
            "objective": report.objective,
            "regret": report.regret,
            "divergence_value": values.divergence,
            "kl_pi_ref": values.kl_pi_ref,
            "kl_ref_pi": values.kl_ref_pi,
            "kl_pi_optimum": report.kl_pi_optimum,
            "entropy": values.entropy,
            "effective_support": np.exp(values.entropy),
            "entropy_per_token": values.entropy / values.length,
            "typicality": values.typicality / values.length,
            "kl_per_token": values.kl_pi_ref / values.length,
            "kl_ref_pi_per_token": values.kl_ref_pi / values.length_ref,
            "length": values.length,
            "beta": rows.beta,
            "gradient_norm": np.asarray(rows.gradient_norm, np.float64),
            "batch_reward": np.asarray(rows.batch_stats.reward, np.float64),
        }
        batch = {f"batch_{name}": kl for name, kl in rows.batch_stats.kl.items()}
        batch |= {"beta_effective": rows.batch_stats.beta_effective}
        batch |= {"batch_zero_std": rows.batch_stats.zero_std}
        batch |= {"batch_clamped": rows.batch_stats.clamped, "batch_truncated": rows.batch_stats.truncated}
        if rows.batch_stats.mismatch is not None:
            batch |= {f"batch_{name}": value for name, value in rows.batch_stats.mismatch._asdict().items()}
        batch |= {"batch_touched": rows.batch_stats.touched}
        columns |= {name: np.asarray(column, np.float64) for name, column in batch.items() if np.isfinite(column).any()}
        if rows.kl_pi_anchor is not None:
            columns["kl_pi_anchor"] = rows.kl_pi_anchor
        if rows.utility is not None:
            columns |= {"utility": rows.utility.utility, "utility_objective": rows.utility.objective}
            columns |= {"utility_regret": rows.utility.regret}
        if values.gold_reward is not None:
            columns |= {"gold_reward": values.gold_reward, "gold_regret": report.gold_regret}
        columns |= {f"{name}_stderr": error for name, error in report.stderr.items()}
        signed = {"kl_pi_optimum"} & set(report.stderr)  # an estimate that may be negative
        return {name: column if name in signed else metrics.clip_rounding(name, column) for name, column in columns.items()}


def summary(built: Built, trained: Trained, seconds: float, table: DiversityTable) -> dict[str, Any]:
    """Return the summary as JSON values: the last row of the history, the settings, the optimum's values and the metrics.

    Infinite values become strings; an undefined value becomes null, with a reason under `<name>_reason`.
    """
    settings, run = built.run.settings, built.run
    last = {key: float(column[-1]) for key, column in history(trained.rows).items() if key != "step"}
    objective = spec.objective(run)
    div = objective.divergence
    step, stopped = int(trained.rows.step[-1]), bool(trained.state.stopped)
    sampled = methods.values_method(objective, trained.state.policy) == "samples"
    values = {
        "schema_version": SCHEMA_VERSION,
        **last,
        "optimal_objective": float(trained.optimum.objective),
        **_of_optimum(trained),
        "divergence": settings.penalty.divergence,
        "formula": "none" if div is None else div.formula,
        "steps": step,
        "seconds": round(seconds, 3),
        "dtype": settings.dtype,
        "init": settings.policy.init,
        "support": settings.policy.support,
        "restricted": policies.REGISTRY[settings.policy.name].restricted,
        "exact": not sampled,
        "task": built.resolved["task"]["name"],
        "policy": settings.policy.name,
        "algorithm": settings.algorithm.name,
        **{key: getattr(settings.penalty, key) for key in PENALTY},
        "descends": describe.descends(run).says,
        "seed": settings.seed,
        "diverged_at": step + 1 if step < settings.steps and not stopped else None,
        **_diversity(trained, table, set(last)),
        **built.card.facts,
    }
    if sampled:
        values["exact_reason"] = methods.why_sampled(objective, trained.state.policy)
    if stopped:
        values["stopped_at"] = step
        values["stopped_reason"] = f"KL(pi‖pi_ref) is above stop_kl={float(settings.stop_kl):g}"
    if trained.optimum.gold_objective is not None:
        values |= _gold(trained)
    if trained.final.decoded is not None:
        values |= _decoded(trained.final.decoded)
    if float(trained.optimum.stderr) > 0.0:
        values["optimal_objective_stderr"] = float(trained.optimum.stderr)
    if trained.optimum.utility is not None:
        values |= {"optimal_utility_objective": float(trained.optimum.utility.objective)}
    if div is None:
        values |= {"divergence_value": math.nan, "optimum_divergence_value": math.nan}
    if trained.best_in_family is not None:
        values["optimal_objective_in_family"] = float(trained.best_in_family)
        values["regret_in_family"] = float(trained.best_in_family) - values["objective"]
    return _json_values(values, _reasons(trained, objective))


def is_summary(value: Any) -> bool:
    """Tell whether a JSON value is a run's summary: an object with the required fields, each of the right type."""
    if not isinstance(value, dict) or type(value.get("diverged_at", "")) not in (int, type(None)):
        return False
    numbers = [value.get(key, "") for key in ESTIMATES]
    plain = all(number in (None, "inf", "-inf") or type(number) in (int, float) for number in numbers)
    return plain and all(type(value.get(key)) is kind for key, kind in FIELDS.items())


def _gold(trained: Trained) -> dict[str, float]:
    """Return the best objective under the gold reward, and the gold reward of the optimum for the fitted reward."""
    best, ends = trained.optimum, trained.final.outcomes
    assert best.gold_objective is not None
    assert ends.gold is not None
    values = {"gold_optimal_objective": float(best.gold_objective), "optimum_gold_reward": float(ends.optimum @ ends.gold)}
    return values | ({"gold_optimal_objective_stderr": float(best.gold_stderr)} if float(best.gold_stderr) > 0.0 else {})


def _of_optimum(trained: Trained) -> dict[str, float]:
    """Return the optimum's values as `optimum_<name>`, NaN where they are not known."""
    values = trained.final.optimum_values
    if values is None or np.isnan(trained.optimum.objective):
        return {f"optimum_{name}": math.nan for name in OF_OPTIMUM}
    result: dict[str, Any] = {
        "reward": values.reward,
        "divergence_value": values.divergence,
        "kl_pi_ref": values.kl_pi_ref,
        "kl_ref_pi": values.kl_ref_pi,
        "entropy": values.entropy,
        "effective_support": np.exp(values.entropy),
    }
    return {f"optimum_{name}": float(metrics.clip_rounding(name, result[name])) for name in OF_OPTIMUM}


def _decoded(decoded: Decoded) -> dict[str, float]:
    """Return the metrics of the decoded policy.

    They include its samples' expected log-probability, under itself and under the policy that is decoded.
    """
    report, values, kl_policy = decoded.report, decoded.report.values, float(decoded.kl_policy)
    result: dict[str, Any] = {"reward": values.reward, "objective": report.objective, "regret": report.regret}
    result |= {"kl_pi_ref": values.kl_pi_ref}
    result |= {"kl_ref_pi": values.kl_ref_pi, "entropy": values.entropy, "effective_support": np.exp(values.entropy)}
    result |= {"typicality": values.typicality / values.length, "length": values.length, "kl_policy": kl_policy}
    result |= {"log_probability": -values.entropy, "log_probability_by_policy": -values.entropy - kl_policy}
    if values.gold_reward is not None:
        result |= {"gold_reward": values.gold_reward, "gold_regret": report.gold_regret}
    stderr = {name: error for name, error in report.stderr.items() if name in result}
    stderr |= {"kl_policy": decoded.kl_policy_stderr} if float(decoded.kl_policy_stderr) > 0.0 else {}
    result |= {f"{name}_stderr": error for name, error in stderr.items()}
    return {f"decoded_{name}": float(metrics.clip_rounding(name, value)) for name, value in result.items()}


def _diversity(trained: Trained, table: DiversityTable, left_out: set[str]) -> dict[str, float]:
    """Return the policy's diversity metrics and its distances to the optimum, with standard errors where estimated."""
    of_policy = {name: value for name, value in table.of["policy"].items() if name not in left_out}
    result = of_policy | {f"{name}_stderr": error for name, error in table.stderr.items()}
    for name, (value, error) in trained.final.distances.items():
        result[name] = float(metrics.clip_rounding(name, value))
        result |= {f"{name}_stderr": float(error)} if float(error) > 0.0 else {}
    return result


def _reasons(trained: Trained, objective: Objective) -> dict[str, str]:
    """Return the reasons why values may be undefined, by the value's name."""
    no_optimum = optimal_policy.reason(objective) or "the optimum would end in a state that the reference never reaches"
    if bool(trained.optimum.tied):
        no_optimum = "the largest reward is tied, so the optimum is not one policy"
    no_table = "the optimum is no table of probabilities by state, so that only its objective is computed"
    reasons = dict.fromkeys(
        map("optimum_{}".format, OF_OPTIMUM), no_optimum if np.isnan(trained.optimum.objective) else no_table
    )
    reasons |= {"divergence_value": "there is no penalty", "mode_entropy": "no sequence ends in a mode"}
    reasons |= {} if objective.divergence is not None else {"optimum_divergence_value": "there is no penalty"}
    if objective.task.reward_model is not None:
        reasons |= dict.fromkeys(diversity_table.REWARD_METRICS, "the reward model reads the whole history, not the end state")
    return reasons | dict.fromkeys(
        (
            "kl_pi_optimum",
            "kl_optimum_pi",
            "tv_optimum",
            "optimal_objective",
            "regret",
            "optimum_gold_reward",
            "decoded_regret",
        ),
        no_optimum,
    )


def _json_values(values: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Replace what JSON lacks: infinities by strings, NaN by null with a reason."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            out[key] = None
            out[f"{key}_reason"] = reasons.get(key.removesuffix("_stderr"), "it is undefined here")
        elif isinstance(value, float) and math.isinf(value):
            out[key] = "inf" if value > 0 else "-inf"
        else:
            out[key] = value
    return out


ROUNDING = 1e-9  # how far below 0 an exact regret may be, relative to the optimum's objective or to 1


def rounding_warning(values: Mapping[str, Any]) -> str | None:
    """Return a warning if an exact regret is negative by more than rounding, so that the grade is unreliable; else None."""
    for regret, optimum in (
        ("regret", "optimal_objective"),
        ("decoded_regret", "optimal_objective"),
        ("gold_regret", "gold_optimal_objective"),
    ):
        value, best = values.get(regret), values.get(optimum)
        estimated = f"{regret}_stderr" in values or f"{optimum}_stderr" in values
        if isinstance(value, float) and isinstance(best, float) and not estimated and value < -ROUNDING * max(1.0, abs(best)):
            return (
                f"{regret} is {value:.3g}, below 0: the optimum shown was found with rounding errors of that size, so this "
                "run's grade is not to be relied on (rewards and coefficient may be too far apart)"
            )
    return None
