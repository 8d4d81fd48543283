"""Over-optimisation: the gold reward against the root of KL(pi‖pi_ref) rises, then falls, while the proxy's rises on.

Source: Gao, Schulman and Hilton 2022, "Scaling laws for reward model overoptimization", arXiv 2210.10760: with d = sqrt(KL),
gold is near d (a - b d) for best of n, d (a - b log d) for RL. The shapes are fitted here; their coefficients are not claimed.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.harness.claims import Claim, at_least, at_most
from experiments.over_optimisation import curves
from rlkl.reports import plots
from rlkl.runs.load import Runs

METHODS = {"optimum": "RL: exact optima over beta", "best of n": "best of n"}
LOOKS = {1_000: plots.VERMILION, 10_000: plots.BLUE}
MEASURED = ("gold", "kl_pi_ref", "proxy")
NEAREST = 0.02  # the least d that is fitted


def table(runs: Runs) -> pd.DataFrame:
    """A row a method, size, set of preferences and strength (beta, n or step): KL(pi‖pi_ref), and the gains of gold and proxy
    reward over the reference's (to 7 digits).
    Methods: optimum, best of n (exact), trained (at the end), rloo (over steps, no penalty)."""
    rows = pd.concat([curves.exact(), ran(runs)], ignore_index=True)
    numbers = ["strength", *MEASURED]
    rows[numbers] = rows[numbers].map(lambda value: float(f"{value:.7g}"))
    return rows


def ran(runs: Runs) -> pd.DataFrame:
    """The trained runs' rows; the proxy's mean under the reference is 0."""
    rows = []
    for _, graded in runs.summary.iterrows():
        ends, path = (frame[frame["run"] == graded["run"]] for frame in (runs.outcomes, runs.history))
        start = float(path["gold_reward"].iloc[0])
        penalised = graded["divergence"] != "none"
        taken = path.iloc[[-1]] if penalised else path
        rows.append(
            pd.DataFrame(
                {
                    "method": "trained" if penalised else "rloo",
                    "pairs": int(graded["override.task.pairs"]),
                    "set": int(graded["override.task.seed"]),
                    "strength": graded["beta"] if penalised else taken["step"],
                    "kl_pi_ref": taken["kl_pi_ref"],
                    "gold": taken["gold_reward"] - start,
                    "proxy": taken["reward"] - float((ends["reference"] * ends["reward"]).sum()),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)[curves.COLUMNS]


def mean(drawn: pd.DataFrame, method: str, pairs: int) -> pd.DataFrame:
    """The mean over sets at each strength, in the order of d: the mean root of KL; gold, its standard error, proxy."""
    own = drawn[(drawn["method"] == method) & (drawn["pairs"] == pairs)]
    by = own.assign(d=np.sqrt(own["kl_pi_ref"].clip(lower=0.0))).groupby("strength")
    return by[["d", "gold", "proxy"]].mean().assign(stderr=by["gold"].sem()).sort_values("d").reset_index()


def shape(method: str, d: np.ndarray) -> np.ndarray:
    """The two terms whose sum is fitted, by the method."""
    return np.stack([d, -(d**2) if method == "best of n" else -d * np.log(d)], axis=1)


def fitted(method: str, curve: pd.DataFrame) -> tuple[np.ndarray, float]:
    """The least-squares coefficients (a, b) and the share of the variance of gold that they explain."""
    kept = curve[curve["d"] > NEAREST]
    if len(kept) < 3:
        return np.full(2, math.nan), math.nan
    terms, gold = shape(method, kept["d"].to_numpy()), kept["gold"].to_numpy()
    coefficients = np.linalg.lstsq(terms, gold, rcond=None)[0]
    spread = float(np.sum((gold - gold.mean()) ** 2))
    left = float(np.sum((gold - terms @ coefficients) ** 2))
    return coefficients, 1.0 - left / spread if spread > 0.0 else math.nan


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked; falls and rises in standard errors over the sets."""
    found: list[Claim] = []
    for method, name in METHODS.items():
        for pairs in curves.PAIRS:
            rise, fall, most = _rise_and_fall(drawn, method, pairs)
            said = f"{name}, {pairs} pairs"
            found += [
                at_least(f"{said}: gold gained at the peak, in standard errors", rise, 4.0),
                at_least(f"{said}: gold lost from the peak to the end, in standard errors", fall, 4.0),
                at_least(f"{said}: rise of the proxy from gold's peak to the end", most, 0.05),
                at_least(f"{said}: share of gold's variance that the shape explains", _explained(drawn, method, pairs), 0.8),
            ]  # fmt: skip
        few, many = (_peak(drawn, method, pairs) for pairs in curves.PAIRS)
        found.append(at_least(f"{name}: peak of gold with more data less that with less", many - few, 0.01))
    return [*found, at_most("trained: largest |gold - the exact optimum's|", _off(drawn), 1e-3)]


def _explained(drawn: pd.DataFrame, method: str, pairs: int) -> float:
    return fitted(method, mean(drawn, method, pairs))[1]


def _peak(drawn: pd.DataFrame, method: str, pairs: int) -> float:
    return float(mean(drawn, method, pairs)["gold"].max())


def _rise_and_fall(drawn: pd.DataFrame, method: str, pairs: int) -> tuple[float, float, float]:
    """Gold at the peak of the mean, and what is lost from there to the farthest, each over its standard error; the proxy's
    rise over the same stretch."""
    curve = mean(drawn, method, pairs)
    if curve.empty or curve["gold"].isna().all():
        return math.nan, math.nan, math.nan
    peak, end = curve.loc[curve["gold"].idxmax()], curve.iloc[-1]
    own = drawn[(drawn["method"] == method) & (drawn["pairs"] == pairs)]
    sets = own.pivot(index="set", columns="strength", values="gold")
    lost = sets[peak["strength"]] - sets[end["strength"]]
    over = lambda values: float(values.mean() / values.sem()) if values.sem() > 0.0 else 0.0  # noqa: E731
    return over(sets[peak["strength"]]), over(lost), float(end["proxy"] - peak["proxy"])


def _off(drawn: pd.DataFrame) -> float:
    """How far trained runs end from the exact curve of their set, interpolated in log beta."""
    off = []
    for _, run in drawn[drawn["method"] == "trained"].iterrows():
        own = drawn[(drawn["method"] == "optimum") & (drawn["pairs"] == run["pairs"]) & (drawn["set"] == run["set"])]
        own = own.sort_values("strength")
        off.append(abs(np.interp(math.log(run["strength"]), np.log(own["strength"]), own["gold"]) - run["gold"]))
    return float(np.max(off)) if off else math.nan


def draw(drawn: pd.DataFrame) -> Figure:
    """A panel a method: the mean gold gain over sets with its 95% interval, the fitted shape, the peak; then rloo's paths."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.9))
        panels = figure.subplots(1, len(METHODS) + 1, sharex=True, sharey=True)
        for axes, (method, name) in zip(panels, METHODS.items(), strict=False):
            for pairs, colour in LOOKS.items():
                _curve(axes, method, mean(drawn, method, pairs), colour)
            axes.set(title=name, xlabel="sqrt KL(pi‖pi_ref) (sqrt nat)")
        for (pairs, _), path in drawn[drawn["method"] == "rloo"].groupby(["pairs", "set"]):
            panels[-1].plot(np.sqrt(path["kl_pi_ref"].clip(lower=0.0)), path["gold"], color=LOOKS[int(pairs)], lw=0.7)
        panels[-1].set(title="rloo without a penalty", xlabel="sqrt KL(pi‖pi_ref) (sqrt nat)")
        panels[0].set(ylabel="gold reward, less the reference's", ylim=(-0.4, 0.6))
        for axes in panels:
            axes.axhline(0.0, color=plots.GREY, lw=0.6)
        sizes = [Line2D([], [], color=colour) for colour in LOOKS.values()]
        rest = [Line2D([], [], color=plots.BLACK, ls="--", lw=0.8), Line2D([], [], color=plots.BLACK, marker="*", ls="", ms=8)]
        labels = [*(f"gold, {pairs:,} pairs" for pairs in LOOKS), "the fitted shape", "peak"]
        figure.legend([*sizes, *rest], labels, loc="outside lower center", ncols=4)
        return figure


def _curve(axes, method: str, curve: pd.DataFrame, colour: str) -> None:
    within = 1.96 * curve["stderr"]
    axes.fill_between(curve["d"], curve["gold"] - within, curve["gold"] + within, color=colour, alpha=0.2, lw=0)
    axes.plot(curve["d"], curve["gold"], color=colour)
    d = curve.loc[curve["d"] > NEAREST, "d"].to_numpy()
    axes.plot(d, shape(method, d) @ fitted(method, curve)[0], color=colour, ls="--", lw=0.8)
    peak = curve.loc[curve["gold"].idxmax()]
    axes.plot(peak["d"], peak["gold"], "*", color=colour, ms=9, mec="white", mew=0.5)
