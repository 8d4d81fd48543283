"""From runs to the table: a row a policy, its numbers and its sentences."""

import numpy as np
import pandas as pd

from rlkl.runs.load import Runs

TASKS = ("topic", "ending")
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
SETTING = ["task", "direction", "beta"]
PORTRAYED = [
    "length", "entropy", "entropy_per_token", "effective_support", "typicality", "mode_mass", "mode_entropy", "mode_coverage",
    "distinct_1", "distinct_2", "distinct_3", "compression_zlib", "kl_pi_ref",
]  # fmt: skip
GRADED = ["seed", "reward", "kl_ref_pi", "kl_pi_optimum", "regret"]
SENTENCES = 3


def table(runs: Runs) -> pd.DataFrame:
    """A row a policy: the reference of each task, the optimum of each setting, every trained run; numbers, sentences."""
    rows: list[dict] = []
    for _, graded in runs.summary.iterrows():
        ends = runs.outcomes[runs.outcomes["run"] == graded["run"]]
        portraits = runs.diversity[runs.diversity["run"] == graded["run"]].set_index("metric")
        written = _sentences((runs.root / graded["run"] / "samples.txt").read_text(encoding="utf-8"))
        task = {"task": graded["override.task.reward"]}
        setting = task | {"direction": graded["divergence"], "beta": graded["beta"]}
        if not any(row["task"] == task["task"] for row in rows):
            rows.append(task | {"series": "reference"} | _given("reference", ends, portraits) | written["reference"])
        if graded["algorithm"] == "exact":
            rows.append(setting | {"series": "optimum"} | _given("optimum", ends, portraits) | written["optimum"])
        trained = graded[GRADED].to_dict() | portraits.loc[PORTRAYED, "policy"].to_dict()
        rows.append(setting | {"series": _series(graded)} | trained | written["policy"])
    return pd.DataFrame(
        rows, columns=[*SETTING, "series", *GRADED, *PORTRAYED, *(f"sentence_{i}" for i in range(1, SENTENCES + 1))]
    )


def _series(graded: pd.Series) -> str:
    slow = float(graded.get("override.optimizer.learning_rate") or 1.0) < 0.1
    return f"{graded['algorithm']}, slow" if slow else str(graded["algorithm"])


def _given(who: str, ends: pd.DataFrame, portraits: pd.DataFrame) -> dict:
    """Reference or optimum. Their ratio depends on the end state alone: KL(pi_ref‖pi) over end states is that of sequences."""
    reward = float((ends["reward"] * ends[who]).sum())
    held = ends[ends["reference"] > 0]
    kl_ref_pi = float((held["reference"] * np.log(held["reference"] / held[who])).sum())
    return {"reward": reward, "kl_ref_pi": kl_ref_pi} | portraits.loc[PORTRAYED, who].to_dict()


def _sentences(samples: str) -> dict[str, dict[str, str]]:
    """The first sentences of each writer in a samples.txt."""
    written: dict[str, dict[str, str]] = {}
    for i, block in enumerate(samples.split("\n\n")[:SENTENCES], start=1):
        for line in block.splitlines():
            who, _, sentence = line.partition(" ")
            written.setdefault(who, {})[f"sentence_{i}"] = sentence.strip()
    return written
