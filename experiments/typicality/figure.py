"""Typicality bias: annotators that favour typical text make the optimum pi_ref^(1 + a/beta) e^(r/beta)/Z, the reference
sharpened towards its own likeliest text.

Source: Zhang et al. 2025, "Verbalized sampling", arXiv 2510.01171, who measure a of .57 and .65 on preference data.
"""

import math

import pandas as pd
from matplotlib.figure import Figure

from experiments.build import Claim, at_least, at_most
from experiments.typicality import laws
from rlkl import plots
from rlkl.results import Runs

COLOURS = {0.0: plots.BLUE, laws.BIAS: plots.VERMILION}
WHO = ("optimum", "policy")
SENTENCES, WORDS = 3, 5
MEASURED = ("entropy", "kl_formula", "told")


def table(runs: Runs) -> pd.DataFrame:
    """Panel "law": a row a task, bias, beta and writer (optimum, policy; and the reference once): entropy, KL to the formula,
    text. Panel "curve": the exact optimum's entropy. Panel "recovered": a row a task and set of answers."""
    rows = [row for _, graded in runs.summary.iterrows() for row in _of_run(runs, graded)]
    law = pd.DataFrame(rows).drop_duplicates(["task", "bias", "beta", "who"])
    curves = [laws.curve(name, bias) for name in laws.TASKS for bias in COLOURS]
    return pd.concat([law, *curves, *map(laws.recovered, laws.TASKS)], ignore_index=True)


def _of_run(runs: Runs, graded: pd.Series) -> list[dict]:
    name, bias, beta = graded["gold_task"], float(graded["override.task.typicality"]), float(graded["beta"])
    ends, portraits = (frame[frame["run"] == graded["run"]] for frame in (runs.outcomes, runs.diversity))
    portraits, partition = portraits.set_index("metric"), laws.log_partition(laws.task(name), bias, beta)
    rows = []
    for who in ("reference", *WHO):
        entropy = float(portraits.loc["entropy", who])
        typical = float(portraits.loc["typicality", who]) * float(portraits.loc["length", who])
        said = {"panel": "law", "task": name, "who": who, "entropy": entropy, "text": _text(runs, graded["run"], ends, who)}
        if who != "reference":
            earned = float((ends["gold"] * ends[who]).sum())
            away = -entropy - (1.0 + bias / beta) * typical - earned / beta + partition
            said |= {"bias": bias, "beta": beta, "kl_formula": away}
        rows.append(said)
    return rows


def _text(runs: Runs, run: str, ends: pd.DataFrame, who: str) -> str:
    """The first sentences that it writes from the same random numbers; of a bandit, its likeliest words."""
    written = runs.root / run / "samples.txt"
    if not written.is_file():
        likely = ends.sort_values(who, ascending=False, kind="stable").head(WORDS)
        return ", ".join(f"{word} {p:.2f}".replace(" 0.", " .") for word, p in zip(likely["outcome"], likely[who], strict=True))
    lines = [line.partition(" ") for line in written.read_text().splitlines()]
    return " / ".join([text.strip() for first, _, text in lines if first == who][:SENTENCES])


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    found: list[Claim] = []
    law = drawn[drawn["panel"] == "law"]
    for task in laws.TASKS:
        own = law[law["task"] == task]
        for who, bound in zip(WHO, (1e-9, 1e-4), strict=True):
            away = own.loc[own["who"] == who, "kl_formula"].abs()
            found.append(at_most(f"{task}, {who}: largest KL to pi_ref^(1 + a/beta) e^(r/beta)", _most(away), bound))
        told = drawn[(drawn["panel"] == "recovered") & (drawn["task"] == task)]
        within = ((told["told"] - laws.BIAS).abs() <= 3.0 * told["stderr"]).sum()
        found += [
            at_least(f"{task}: of 100 sets of answers, whose a is within 3 standard errors", within, 97),
            at_most(f"{task}: entropy with a = .57 over that without, beta .1", _ratio(own, 0.1), 0.1),
            at_most(f"{task}: entropy with a = .57 over that without, beta 1", _ratio(own, 1.0), 0.8),
        ]
    return found


def _most(values: pd.Series) -> float:
    return float(values.max(skipna=False)) if len(values) else math.nan


def _ratio(own: pd.DataFrame, beta: float) -> float:
    at = own[(own["who"] == "optimum") & (own["beta"] == beta)].set_index("bias")["entropy"]
    return float(at.get(laws.BIAS, math.nan) / at.get(0.0, math.nan))


def draw(drawn: pd.DataFrame) -> Figure:
    """Two panels of entropy over beta, with and without the bias, exact lines under trained dots; one of recovered biases."""
    with plots.styled():
        figure = Figure(figsize=(6.75, 2.7))
        *panels, right = figure.subplots(1, 3)
        for axes, task in zip(panels, laws.TASKS, strict=True):
            own = drawn[drawn["task"] == task]
            reference = own.loc[own["who"] == "reference", "entropy"].iloc[0]
            axes.axhline(reference, color=plots.GREY, lw=1.0, label="reference")
            for bias, colour in COLOURS.items():
                at = own[own["bias"] == bias]
                curve, dots = at[at["panel"] == "curve"], at[at["who"] == "policy"]
                name = f"a = {bias:g}".replace("0.", ".")
                axes.plot(curve["beta"], curve["entropy"], color=colour, label=f"optimum, {name}")
                axes.plot(dots["beta"], dots["entropy"], "o", color=colour, label=f"trained, {name}")
            axes.set(title=task, xscale="log", xlabel="beta", ylabel="entropy (nats)")
        told = drawn[drawn["panel"] == "recovered"]
        for task, colour in zip(laws.TASKS, (plots.GREEN, plots.PURPLE), strict=True):
            own = told[told["task"] == task].sort_values("told").reset_index()
            right.errorbar(own.index, own["told"], 3.0 * own["stderr"], fmt=".", color=colour, ms=2, lw=0.4, label=task)
        right.axhline(laws.BIAS, color=plots.BLACK, lw=0.8)
        right.set(title="recovered a, ±3 s.e.", ylim=(0.2, 0.92), xlabel="set of answers, in order", ylabel="recovered a")
        right.legend(loc="lower right")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        return figure
