"""Name what a run logs by its kind, as trackers group their charts: `train/...`, `exact/...` and `estimate/...`.

history.csv and summary.json have the same names without the group.
"""

from collections.abc import Container, Mapping
from typing import Any

GROUPS = ("train", "exact", "estimate")
TRAINING = ("beta", "beta_effective", "gradient_norm")  # what training itself sees; so are all names in batch_...
SAMPLED = ("distinct_", "compression_")  # metrics of sampled sequences, also in runs whose other values are exact
# Metrics that the summary has beside those of history.csv and diversity.csv; so are all names in decoded_...
FINAL = (
    "optimal_objective", "optimal_objective_in_family", "regret_in_family", "kl_optimum_pi", "tv_optimum",
    "gold_optimal_objective", "optimum_gold_reward",
)  # fmt: skip
OPTIMA = ("optimal_objective", "optimal_objective_in_family", "gold_optimal_objective")  # exact unless they have an error
INFINITE = {"inf": float("inf"), "-inf": float("-inf")}


def group_rows(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of history.csv under the names that are logged; `step` stays as it is."""
    return {name if name == "step" else f"{_kind(name, columns, True)}/{name}": column for name, column in columns.items()}


def group_summary(summary: Mapping[str, Any], metrics: Container[str]) -> dict[str, Any]:
    """Return the values of summary.json under the names that are logged, with infinities as numbers.

    metrics: the names in history.csv and diversity.csv. Settings and facts keep their names.
    """
    result = {}
    for name, value in summary.items():
        metric = name.removesuffix("_reason").removesuffix("_stderr")
        if metric in metrics or metric in FINAL or metric.startswith("decoded_"):
            exact = "decoded_reward_stderr" not in summary if metric.startswith("decoded_") else bool(summary["exact"])
            name = f"{_kind(metric, summary, exact)}/{name}"
            value = INFINITE.get(value, value) if isinstance(value, str) else value
        result[name] = value
    return result


def _kind(name: str, names: Container[str], exact: bool) -> str:
    """Return the group of a metric. exact: whether the run's values without a standard error among `names` are exact."""
    metric = name.removesuffix("_stderr")
    if metric in TRAINING or metric.startswith("batch_"):
        return "train"
    estimated = f"{metric}_stderr" in names or metric.startswith(SAMPLED) or not (exact or metric in OPTIMA)
    return "estimate" if estimated else "exact"
