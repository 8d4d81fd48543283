"""Tables and numbers for the results and explanations that need more than a cell of figure.csv."""

import functools
import importlib
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.harness import optima
from experiments.harness.page import evidence
from experiments.where_diversity_goes import shares
from pages import experiments, markdown, registries
from rlkl import divergences, settings, tasks
from rlkl.exact import matching
from rlkl.penalties.expected_gradient import expected_gradient


def number(name: str, query: str, column: str, how: str = "mean") -> float:
    """A number to calculate with: the mean (or min, max, median) of a column over the rows that a pandas query selects."""
    rows = experiments.numbers(name).query(query)[column].dropna()
    if not len(rows):
        raise ValueError(f"{name}: {query!r} selects no row with a {column}")
    return float(rows.agg(how))


def crossings(name: str, panel: str, first: str, second: str) -> list[float]:
    """Where the lines of two series of a panel of figure.csv cross, in ascending order of x, between its points."""
    drawn = experiments.numbers(name).query("panel == @panel and series in [@first, @second]")
    lines = drawn.pivot(index="x", columns="series", values="y").sort_index()
    found = _zeros(lines.index.to_numpy(), (lines[first] - lines[second]).to_numpy())
    if not found:
        raise ValueError(f"{name}: {first} and {second} do not cross in {panel!r}")
    return found


def _zeros(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Where a line between points crosses 0, in the order of x."""
    before = [i for i in range(len(x) - 1) if y[i] * y[i + 1] < 0]
    return [float(x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1])) for i in before]


def highest(name: str, query: str, column: str, at: str = "x") -> float:
    """The value of another column (`at`) in the row, of those that a pandas query selects, whose `column` is the largest."""
    rows = experiments.numbers(name).query(query)
    if not len(rows):
        raise ValueError(f"{name}: {query!r} selects no row")
    return float(rows.loc[rows[column].idxmax(), at])


def rows(name: str, query: str, columns: dict[str, str], form: str = ".3g") -> str:
    """A table of the rows that a pandas query selects. columns: the header of each column of figure.csv that is shown."""
    selected = experiments.numbers(name).query(query)[list(columns)]
    if not len(selected):
        raise ValueError(f"{name}: {query!r} selects no row")
    return _table(columns.values(), selected.itertuples(index=False), form)


def pivot(
    name: str, query: str, index: str, columns: str, values: str, form: str = ".3g", corner: str = "", how: str = "mean"
) -> str:
    """A table of one number over two columns of figure.csv, averaged over the other rows; corner: its first header."""
    selected = experiments.numbers(name).query(query)
    if not len(selected):
        raise ValueError(f"{name}: {query!r} selects no row")
    return _pivot(selected, index, columns, values, form, corner, how)


def rare_arm(form: str = ".2g") -> str:
    """Largest regret of five seeds over penalty and beta, from rare_arm.csv: `explanation/what_sampling_cannot_see` says how
    it is measured."""
    runs = pd.read_csv(Path(__file__).with_name("rare_arm.csv"))
    return _pivot(runs, "divergence", "beta", "regret", form, "largest regret of 5 seeds", "max")


def _pivot(selected: pd.DataFrame, index: str, columns: str, values: str, form: str, corner: str, how: str) -> str:
    found = selected.pivot_table(values, index, columns, aggfunc=how, sort=False)
    header = [corner, *(_label(each) for each in found.columns)]
    return _table(header, ((_label(key), *row) for key, row in zip(found.index, found.to_numpy(), strict=True)), form)


def text_table(name: str) -> str:
    """The plain table that an experiment prints for its readers, as a block of text."""
    figure = importlib.import_module(f"experiments.{name}.figure")
    return f"```text\n{figure.text(experiments.numbers(name))}```\n"


def _table(header, body, form: str) -> str:
    rows = ([format(cell, form) if isinstance(cell, float) else registries.short(str(cell)) for cell in row] for row in body)
    return markdown.table(header, rows)


def _label(key: object) -> str:
    text = f"{key:g}" if isinstance(key, float) else str(key)
    return divergences.REGISTRY[text].formula if text in divergences.REGISTRY else text


# Exact optima at one KL(pi‖pi_ref), computed when the pages are built

MODES = "bandit/two_modes"
NATS = np.geomspace(0.01, 5.9, 60)  # the better mode alone has 5.95


def lesser_share(direction: str, nats: float) -> float:
    """The lesser mode's share of the mass on the two modes of `bandit/two_modes`, at the optimum with this KL(pi‖pi_ref)."""
    return float(_lesser_shares(direction, np.array([nats]))[0])


def equal_kl_crossings() -> list[float]:
    """The KL(pi‖pi_ref) at which the lesser mode's share is the same under both KLs, in ascending order."""
    return _zeros(NATS, _lesser_shares("kl_pi_ref", NATS) - _lesser_shares("kl_ref_pi", NATS))


def _lesser_shares(direction: str, nats: np.ndarray) -> np.ndarray:
    task = tasks.build(MODES).task
    modes = np.exp(optima.over_beta(task, direction, matching.betas(task, divergences.REGISTRY[direction], nats))[:, :2])
    return modes.min(axis=1) / modes.sum(axis=1)


def k1_deviation(task: str, nats: float, batch: int) -> float:
    """Standard deviation of the mean of k1 over a batch of the optimum under KL(pi‖pi_ref) of a bandit, at this KL."""
    bandit = tasks.build(task).task
    log_pi = optima.over_beta(bandit, "kl_pi_ref", matching.betas(bandit, divergences.REGISTRY["kl_pi_ref"], nats))[0]
    k1 = log_pi - bandit.log_reference[0]
    return float(np.sqrt((np.exp(log_pi) @ k1**2 - (np.exp(log_pi) @ k1) ** 2) / batch))


# Where diversity goes: shares of causes

STEPS = {
    "reward": "reward",
    "data": "finite data",
    "bias": "typicality bias",
    "estimator": "k3 in the loss",
    "optimiser": "optimiser",
}
TASKS = {"words": "words", "grammar": "sentences"}
CASES = [(task, direction) for task in TASKS for direction in ("kl_pi_ref", "kl_ref_pi")]


@functools.cache
def _shares() -> pd.DataFrame:
    return shares.table(experiments.numbers("where_diversity_goes"))


def share(task: str, direction: str, view: str, step: str, order: str = "", number: str = "entropy") -> float:
    """Change of entropy (or another number) by one cause, mean over seeds. order: "" in turn, " first" alone, " last"."""
    return shares.mean(_shares(), f"{number}{order}")(task, direction, view, step)


def shares_table(views: list[str]) -> str:
    """Change of entropy by each cause: in turn with its 95% interval, in brackets alone. A cause is bold where its loss in turn
    is the largest and its interval overlaps no other's."""
    lines = []
    for task, direction in CASES:
        for view in views:
            cells = [_share_cell(task, direction, view, step, _lost_most(task, direction, view)) for step in STEPS]
            lines.append((f"{TASKS[task]}, {divergences.REGISTRY[direction].formula}, {view}", *cells))
    return _table(["", *STEPS.values()], lines, "")


def most_lost(view: str, step: str, clearly: bool = False) -> int:
    """In how many of the four cases (task and direction) a cause loses the most entropy in turn, on average; clearly: and its
    95% interval overlaps no other's."""
    means = [min(STEPS, key=lambda each, case=case: share(*case, view, each)) == step for case in CASES]
    return sum(_lost_most(*case, view) == step for case in CASES) if clearly else sum(means)


def _lost_most(task: str, direction: str, view: str) -> str:
    """The cause that loses the most, if its interval overlaps no other's; else nothing."""
    ends = {step: shares.interval(_shares(), "entropy", (task, direction, view, step)) for step in STEPS}
    most = min(STEPS, key=lambda step: share(task, direction, view, step))
    return most if all(ends[most][1] < ends[step][0] for step in STEPS if step != most) else ""


def _share_cell(task: str, direction: str, view: str, step: str, lost_most: str) -> str:
    in_turn, alone = (_change(share(task, direction, view, step, order)) for order in ("", " first"))
    low, high = shares.interval(_shares(), "entropy", (task, direction, view, step))
    shown = f"**{in_turn}**" if step == lost_most else in_turn
    shown += f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{(high - low) / 2:.2f}" if high - low >= 0.01 else ""
    return shown if step == "reward" or alone == in_turn else f"{shown} ({alone})"


def _change(value: float) -> str:
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


# What is said of KL, and what a penalty descends


PAGES = {
    "collapse": "collapse.md",
    "mode_seeking": "../explanation/two_directions.md",
    **{name: f"more.md#{name.replace('_', '-')}" for name in ("compression", "likelihood", "asymmetry", "quantization")},
    "zero_and_units": "more.md#zero-and-units",
}  # where a page in results/ finds an experiment's claims


def sayings() -> str:
    """Common sayings about KL, each with its verdict, the reason, and the experiment whose claims show it."""
    committed = {path.parent.name for path in experiments.EXPERIMENTS.glob("*/figure.csv")}
    lines = []
    for each in evidence.sayings([_shown(name) for name in sorted(committed)]):
        if each.complaints:
            raise ValueError(f"{each.saying!r} rests on {each.experiment}, {each.complaints[0]}")
        lines.append((each.saying, f"**{each.verdict}**", each.because, f"[`{each.experiment}`]({PAGES[each.experiment]})"))
    return _table(("saying", "verdict", "why", "experiment"), lines, "")


def _shown(name: str) -> evidence.Shown:
    """An experiment with the claims of its committed numbers, of which none is reduced."""
    claims = [claim._asdict() for claim in experiments.claims_of(name)]
    return evidence.Shown(name, evidence.describe(name), claims, {"quick": False}, "", "", [])


def expected(estimator: str, placement: str, tokens: int, **others) -> str:
    """What the expected gradient of an estimator of KL(pi‖pi_ref) is, on sequences of this many tokens, in words."""
    known = {"level": "token" if tokens > 1 else "sequence", "credit": "reward_to_go", "sampler": "policy"}
    penalty = settings.PenaltySettings(estimator=estimator, placement=placement, **(known | others))
    return registries.short(expected_gradient(penalty, tokens).says)
