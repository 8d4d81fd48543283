"""A flat reward: what the penalty does alone. Every optimum is then the reference; what does not return to it was lost by the
gradient, not by the objective.

Source: Mei et al. 2020, "On the global convergence rates of softmax policy gradient methods", arXiv 2005.06392 (a softmax's
gradient is the probability times the advantage).
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.flat_reward import paths
from experiments.harness.claims import Claim, at_least, at_most, near
from rlkl import divergences
from rlkl.reports import plots
from rlkl.runs.load import Runs

COLUMNS = ["panel", *paths.COLUMNS, "algorithm", "batch_size", "rate", "seed", "lost"]
COLOURS = {
    "reference": plots.GREY, "uniform": plots.BLACK, "lost 5": plots.SKY, "lost 10": plots.BLUE, "lost 20": plots.ORANGE,
    "lost 40": plots.VERMILION,
}  # fmt: skip
BATCHES = {8: plots.VERMILION, 32: plots.ORANGE, 128: plots.BLUE}
REST = -math.log(1.0 - paths.REFERENCE[0])  # KL(pi‖pi_ref) of the reference without its likeliest arm
FLOOR = 1e-17
MEASURED = ("kl_pi_ref", "kl_ref_pi", "gradient_norm", "lost")


def table(runs: Runs) -> pd.DataFrame:
    """Exact paths (panel "exact": a row a start and logged step), and of each sampled run the entropy that it has lost, less
    than the reference's, averaged over the second half of its steps (panel "sampled")."""
    taken = [("sgd", direction) for direction in paths.DIRECTIONS] + [("adam", "kl_pi_ref")]
    exact = pd.concat([paths.follow(*one) for one in taken], ignore_index=True)
    return pd.concat([exact.assign(panel="exact"), sampled(runs)], ignore_index=True)[COLUMNS]


def sampled(runs: Runs) -> pd.DataFrame:
    """A row a sampled run."""
    p = np.array(paths.REFERENCE)
    entropy = float(-p @ np.log(p))
    last = runs.history.groupby("run")["step"].transform("max")
    late = runs.history[runs.history["step"] > last / 2].groupby("run")["entropy"].mean()
    summary = runs.summary
    said = {
        "panel": "sampled", "direction": summary["divergence"], "start": summary["init"], "algorithm": summary["algorithm"],
        "batch_size": summary["override.batch_size"].astype(int), "seed": summary["seed"], "step": summary["steps"],
        "rate": summary["override.optimizer.learning_rate"].astype(float), "lost": entropy - summary["run"].map(late),
        "kl_pi_ref": summary["kl_pi_ref"], "kl_ref_pi": summary["kl_ref_pi"],
    }  # fmt: skip
    return pd.DataFrame(said)


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    exact, ran = drawn[drawn["panel"] == "exact"], drawn[drawn["panel"] == "sampled"]
    last = exact[exact["step"] == exact["step"].max()].set_index(["optimizer", "direction", "start"])
    first = exact[exact["step"] == 0].set_index(["optimizer", "direction", "start"])
    found: list[Claim] = []
    for direction in paths.DIRECTIONS:
        formula, whole = divergences.REGISTRY[direction].formula, ("reference", "uniform")
        worst = _largest(last, [("sgd", direction, start) for start in whole])
        found.append(at_most(f"{formula}, from the reference or uniform: largest KL at the end", worst, 1e-6))
    gone, kept = [("sgd", direction, "lost 40") for direction in paths.DIRECTIONS]
    found += [
        at_most("KL(pi_ref‖pi), from any start without an arm: largest KL at the end",
                _largest(last, [("sgd", "kl_ref_pi", f"lost {far}") for far in paths.LOST]), 1e-6),
        near("KL(pi‖pi_ref), an arm lost by e^-40: KL(pi‖pi_ref) at the end, pi_ref without the arm",
             _at(last, gone, "kl_pi_ref"), REST, 1e-6),
        near("KL(pi‖pi_ref), an arm lost by e^-20: the same",
             _at(last, ("sgd", "kl_pi_ref", "lost 20"), "kl_pi_ref"), REST, 1e-4),
        at_most("KL(pi‖pi_ref), an arm lost by e^-5: KL at the end (it returns)",
                _largest(last, [("sgd", "kl_pi_ref", "lost 5")]), 1e-6),
        at_most("KL(pi‖pi_ref), an arm lost by e^-40: norm of the gradient", _at(first, gone, "gradient_norm"), 1e-14),
        at_least("KL(pi_ref‖pi), an arm lost by e^-40: norm of the gradient", _at(first, kept, "gradient_norm"), 0.1),
        at_most("KL(pi‖pi_ref), Adam, an arm lost by e^-20: KL at the end (rescaled, it returns)",
                _largest(last, [("adam", "kl_pi_ref", "lost 20")]), 1e-3),
        near("KL(pi‖pi_ref), Adam, an arm lost by e^-40: KL(pi‖pi_ref) at the end",
             _at(last, ("adam", *gone[1:]), "kl_pi_ref"), REST, 1e-3),
    ]  # fmt: skip
    return found + _sampled_claims(ran)


def _sampled_claims(ran: pd.DataFrame) -> list[Claim]:
    still = ran.loc[ran["start"] == "reference", "lost"].abs()
    loss = ran[ran["start"] == "uniform"].groupby(["algorithm", "batch_size", "rate"])["lost"].mean()
    of = lambda *key: float(loss.get(key, math.nan))  # noqa: E731
    return [
        at_most(
            "sampled, from the reference: largest |entropy lost|", still.max(skipna=False) if len(still) else math.nan, 1e-5
        ),
        at_most("sampled, from uniform, rate .1: largest |mean entropy lost|, any batch", _most(loss, 0.1), 0.02),
        at_most("rloo, rate .3, batch 8: |entropy lost|", abs(of("rloo", 8, 0.3)), 0.01),
        at_least("grpo, rate 1, batch 8: entropy lost", of("grpo", 8, 1.0), 0.3),
        at_least(
            "grpo, rate 1: entropy lost at batch 8 less that at batch 128", of("grpo", 8, 1.0) - of("grpo", 128, 1.0), 0.3
        ),
        at_least("grpo, batch 8: entropy lost at rate 1 less that at rate .1", of("grpo", 8, 1.0) - of("grpo", 8, 0.1), 0.3),
        at_least("rate 3: least entropy lost, any algorithm and batch", _least(loss, 3.0), 0.5),
    ]


def _most(loss: pd.Series, rate: float) -> float:
    """The largest absolute loss at a step size."""
    return float(loss[loss.index.get_level_values("rate") == rate].abs().max(skipna=False))


def _least(loss: pd.Series, rate: float) -> float:
    return float(loss[loss.index.get_level_values("rate") == rate].min(skipna=False))


def _at(rows: pd.DataFrame, key: tuple[str, str, str], column: str) -> float:
    return float(rows[column].get(key, math.nan))


def _largest(rows: pd.DataFrame, keys: list[tuple[str, str, str]]) -> float:
    """The largest of both KLs; NaN where one is missing."""
    return float(np.max([_at(rows, key, column) for key in keys for column in ("kl_pi_ref", "kl_ref_pi")]))


def draw(drawn: pd.DataFrame) -> Figure:
    """Two panels of exact paths, a line a start; one of the entropy that sampled training loses, over its step size."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.9))
        *exact, loss = figure.subplots(1, 3)
        for axes, direction in zip(exact, paths.DIRECTIONS, strict=True):
            _paths(axes, drawn[(drawn["panel"] == "exact") & (drawn["direction"] == direction)])
            axes.set(title=f"exact, {divergences.REGISTRY[direction].formula}", xscale="log", yscale="log", xlabel="step")
            axes.set(ylim=(1e-9, 60), xlim=(1, drawn.loc[drawn["panel"] == "exact", "step"].max()))
        exact[0].set_ylabel("KL(pi_ref‖pi) (nats)")
        _loss(loss, drawn[(drawn["panel"] == "sampled") & (drawn["start"] == "uniform")])
        loss.set(title="sampled, KL(pi‖pi_ref)", xscale="log", xlabel="step size (Adam)", ylabel="entropy lost (nats)")
        lines = [Line2D([], [], color=colour) for colour in COLOURS.values()]
        labels = [
            "start: the reference (KL = 0)" if name == "reference" else f"an arm lost by e^-{name[5:]}" if " " in name else name
            for name in COLOURS
        ]
        dashed = Line2D([], [], color=plots.GREY, ls=":")
        figure.legend(
            [*lines, dashed], [*labels, "the same, by Adam (others: plain gradient)"], loc="outside lower center", ncols=3
        )
        return figure


def _paths(axes, drawn: pd.DataFrame) -> None:
    for (optimizer, start), path in drawn[drawn["step"] > 0].groupby(["optimizer", "start"], sort=False):
        if optimizer == "sgd" or start in ("lost 20", "lost 40"):
            line = "-" if optimizer == "sgd" else ":"
            axes.plot(path["step"], np.maximum(path["kl_ref_pi"], FLOOR), line, color=COLOURS[start])


def _loss(axes, drawn: pd.DataFrame) -> None:
    for (algorithm, batch), runs in drawn.groupby(["algorithm", "batch_size"]):
        seeds = runs.groupby("rate")["lost"].agg(["mean", "min", "max"])
        spread = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
        style = {"fmt": "o-" if algorithm == "grpo" else "s--", "color": BATCHES[int(batch)], "ms": 3, "lw": 0.8}
        axes.errorbar(seeds.index, seeds["mean"], spread, label=f"{algorithm}, batch {int(batch)}", **style)
    axes.legend(loc="upper left", fontsize=6)
