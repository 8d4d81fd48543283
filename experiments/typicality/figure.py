"""Typicality: annotators that add a log pi_ref to the reward make the optimum pi_ref^(1 + a/beta) e^(r/beta): the reference,
sharpened towards its own typical words; and the answers tell the a.

Source: Zhang et al. 2025, "Verbalized sampling", arXiv 2510.01171, which measures a = .57 and .65 on two reward models.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from experiments.harness.claims import Claim, at_least, at_most
from rlkl import divergences, tasks
from rlkl.exact import Objective, optimal_policy
from rlkl.policies import AnyPolicy, Fixed
from rlkl.reports import plots
from rlkl.rollouts import sampling, scoring
from rlkl.runs.folder import checkpoint
from rlkl.runs.load import Runs
from rlkl.settings import numerics
from rlkl.tasks import Task
from rlkl.tasks.preferences import annotators

BASES = {"bandit/words": "words of a text", "sequence/grammar": "sentences"}
PUT_IN, ASKED, SEEDS = 0.5, 1000, 100  # the weight, the pairs and the data sets that it is recovered from
WEIGHTS = (0.0, 0.25, 0.5, 1.0)
COLOURS = dict(zip(WEIGHTS, (plots.BLACK, plots.SKY, plots.ORANGE, plots.VERMILION), strict=True))
DRAWN, SHOWN = 4096, 6  # sequences that the closed form is checked on; words that are shown
COLUMNS = [
    "task", "series", "typicality_weight", "beta", "seed", "entropy", "optimum_entropy", "reference_entropy", "typicality",
    "gold_reward", "regret", "spread", "optimum_spread", "recovered", "stderr", "text",
]  # fmt: skip


def table(runs: Runs) -> pd.DataFrame:
    """A row a trained run (series "policy"), the reference of each task ("reference"), and a row a data set that the weight
    was recovered from ("recovered")."""
    rows: list[dict] = []
    for _, graded in runs.summary.iterrows():
        base = {"task": graded["gold_task"]}
        portraits = runs.diversity[runs.diversity["run"] == graded["run"]].set_index("metric")
        entropy = portraits.loc["entropy"]
        if not any(row["task"] == base["task"] for row in rows):
            known = {"entropy": entropy["reference"], "typicality": portraits.loc["typicality", "reference"]}
            known |= {"gold_reward": _gold_of_reference(runs, graded["run"]), "text": _text(runs, graded["run"], "reference")}
            rows.append(base | known | {"series": "reference"})
        rows.append(
            base
            | {"series": "policy", "typicality_weight": graded["annotators_typicality"], "beta": graded["beta"]}
            | {f"{who}_entropy": entropy[who] for who in ("optimum", "reference")}
            | graded[["entropy", "typicality", "gold_reward", "regret"]].to_dict()
            | spreads(runs, graded)
            | {"text": _text(runs, graded["run"], "policy")}
        )
    return pd.DataFrame([*rows, *_recovered()], columns=COLUMNS)


def spreads(runs: Runs, graded: pd.Series) -> dict[str, float]:
    """Of trained policy and exact optimum, the standard deviation of log pi - (1 + a/beta) log pi_ref - gold/beta over its own
    sequences: 0 where it is the closed form, whatever normalises it."""
    task, weight, beta = tasks.build(graded["gold_task"]).task, graded["annotators_typicality"], graded["beta"]
    biased = dataclasses.replace(task, typicality=np.asarray(weight))
    kl, params = divergences.REGISTRY["kl_pi_ref"], divergences.Params()
    with numerics.pinned():
        reference = Fixed(jnp.asarray(task.log_reference), task.automaton.horizon)
        best = _solve(Objective(biased, reference, kl, params, jnp.asarray(beta, jnp.float64)), True).log_pi
        both = {
            "spread": checkpoint.load_policy(runs.root / graded["run"]),
            "optimum_spread": Fixed(best, task.automaton.horizon),
        }
        return {name: _spread(policy, reference, task, 1.0 + weight / beta, beta) for name, policy in both.items()}


_solve = jax.jit(optimal_policy.solve, static_argnums=1)


def _spread(policy: AnyPolicy, reference: Fixed, task: Task, power: float, beta: float) -> float:
    uniform = np.random.default_rng(0).random((task.automaton.horizon, DRAWN))
    batch = jax.jit(sampling.walk, static_argnums=1)(uniform, task.automaton, policy)
    log_pi, log_ref = (np.asarray(scoring.log_probability(each, batch)) for each in (policy, reference))
    gold = np.asarray(task.reward)[np.asarray(batch.states)[:, -1]]
    return float(np.std(log_pi - power * log_ref - gold / beta))


def _gold_of_reference(runs: Runs, run: str) -> float:
    ends = runs.outcomes[runs.outcomes["run"] == run]
    return float(ends["reference"] @ ends["gold"])


def _text(runs: Runs, run: str, who: str) -> str:
    """The likeliest words with their probabilities, or the first sentence written."""
    samples = runs.root / run / "samples.txt"
    if samples.is_file():
        lines = samples.read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith(who)).removeprefix(who).strip()
    ends = runs.outcomes[runs.outcomes["run"] == run].nlargest(SHOWN, who)
    return ", ".join(f"{word} {100 * p:.3g}%" for word, p in zip(ends["outcome"], ends[who], strict=True))


def _recovered() -> list[dict]:
    rows = []
    for base in BASES:
        task = annotators.under_gold(tasks.build(base).task)
        for seed in range(SEEDS):
            asked = annotators.ask(task, annotators.Preferences(PUT_IN, 1.0), ASKED, seed)
            found, error = annotators.recovered(task, asked) or (np.nan, np.nan)
            known = {"task": base, "series": "recovered", "typicality_weight": PUT_IN, "seed": seed}
            rows.append(known | {"recovered": found, "stderr": error})
    return rows


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked, for each task."""
    return [claim for base in BASES for claim in _claims(base, drawn[drawn["task"] == base])]


def _claims(base: str, drawn: pd.DataFrame) -> list[Claim]:
    policy, told = drawn[drawn["series"] == "policy"], drawn[drawn["series"] == "recovered"]
    reference = drawn.loc[drawn["series"] == "reference", "entropy"].mean()
    z = ((told["recovered"] - PUT_IN) / told["stderr"]).abs()
    entropy = policy.pivot_table("entropy", "beta", "typicality_weight").sub(reference)
    sharp = entropy.get(0.5, pd.Series(dtype=float))
    unbiased, biased = (entropy.get(weight, pd.Series(dtype=float)) for weight in (0.0, 1.0))
    return [
        at_most(
            f"{base}: spread of the trained log pi about pi_ref^(1 + a/beta) e^(r/beta), worst",
            policy["spread"].max(skipna=False), 0.01,
        ),
        at_most(f"{base}: spread of the exact optimum's, worst", policy["optimum_spread"].max(skipna=False), 1e-9),
        at_most(f"{base}: largest regret", policy["regret"].max(skipna=False), 1e-5),
        at_most(
            f"{base}: trained entropy from the optimum's, worst",
            (policy["entropy"] - policy["optimum_entropy"]).abs().max(skipna=False), 1e-3,
        ),
        at_least(f"{base}: of {SEEDS} recovered weights, within 3 standard errors", (z <= 3.0).sum(), 0.97 * SEEDS),
        at_most(f"{base}, a = .5: entropy less the reference's, at beta 1.6", _at(sharp, 1.6), -0.5),
        at_most(f"{base}, a = 1 against 0: entropy, beta 0.4", _at(biased, 0.4) - _at(unbiased, 0.4), -1.0),
        at_least(f"{base}, a = 0: entropy less the reference's, at beta 1.6", _at(unbiased, 1.6), -0.1),
    ]  # fmt: skip


def _at(by_beta: pd.Series, beta: float) -> float:
    return float(by_beta.get(beta, np.nan))


def draw(drawn: pd.DataFrame) -> Figure:
    """Entropy over beta on both tasks; recovered weights in standard errors from the one put in."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.6))
        first, second, third = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 0.8))
        for axes, base in zip((first, second), BASES, strict=True):
            _entropies(axes, drawn[drawn["task"] == base])
            axes.set(title=BASES[base], xlabel="beta")
        first.set_ylabel("entropy (nats)")
        _errors(third, drawn[drawn["series"] == "recovered"])
        figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=5)
        return figure


def _entropies(axes: Axes, drawn: pd.DataFrame) -> None:
    reference = drawn.loc[drawn["series"] == "reference", "entropy"].mean()
    axes.axhline(reference, color=plots.GREY, ls="--", lw=0.8, label="reference")
    for weight in WEIGHTS:
        rows = drawn[(drawn["series"] == "policy") & (drawn["typicality_weight"] == weight)].sort_values("beta")
        label = f"a = {weight:g}".replace("0.", ".")
        axes.plot(rows["beta"], rows["optimum_entropy"], color=COLOURS[weight], lw=1.0, label=label)
        axes.plot(rows["beta"], rows["entropy"], "o", color=COLOURS[weight], ms=3.0)
    axes.set(xscale="log", ylim=(0.0, 1.08 * reference))
    axes.set_xticks([0.1, 0.2, 0.4, 0.8, 1.6], [".1", ".2", ".4", ".8", "1.6"])
    axes.minorticks_off()


def _errors(axes: Axes, told: pd.DataFrame) -> None:
    edges, at = np.arange(-4.0, 4.01, 0.5), np.linspace(-4.0, 4.0, 200)
    for base, colour in zip(BASES, (plots.BLUE, plots.GREEN), strict=True):
        rows = told[told["task"] == base]
        z = (rows["recovered"] - PUT_IN) / rows["stderr"]
        axes.hist(z, edges.tolist(), density=True, histtype="step", color=colour, lw=1.0, label=BASES[base])
    axes.plot(at, stats.norm.pdf(at), color=plots.BLACK, lw=0.8, ls=":", label="standard normal")
    axes.set(title="recovered a", xlabel="(recovered - .5)/standard error", yticks=[], ylim=(0.0, 0.75))
    axes.legend(fontsize=6, loc="upper left")


def text(drawn: pd.DataFrame) -> str:
    """What is written before and after training, as a plain table for the documentation."""
    lines = [f"{'':<18}{'a':>5}{'beta':>6}{'entropy':>9}{'E[gold]':>9}  text"]
    for base in BASES:
        rows = drawn[(drawn["task"] == base) & drawn["text"].notna()]
        biased = rows["typicality_weight"].isin([0.0, 0.5, 1.0]) & (rows["beta"] == 0.4)
        shown = rows[(rows["series"] == "reference") | biased]
        for _, row in shown.iterrows():
            who = ("reference" if row["series"] == "reference" else "policy") + (" words" if base == "bandit/words" else "")
            setting = ["" if pd.isna(row[key]) else f"{row[key]:g}" for key in ("typicality_weight", "beta")]
            lines.append(
                f"{who:<18}{setting[0]:>5}{setting[1]:>6}{row['entropy']:>9.2f}{row['gold_reward']:>9.2f}  {row['text']}"
            )
    return "\n".join(lines) + "\n"
