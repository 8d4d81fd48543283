"""The four panels of the figure."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.razor.forgetting import BETAS, NO_PENALTY, PROJECTION, REPLAY
from experiments.razor.one_prompt import CORRECT, START, least
from rlkl.reports import plots

V = START[CORRECT].sum()
TICKS = {0.2: ".2", 0.5: ".5", 0.9: ".9", 0.99: ".99", 0.999: ".999"}
COLOURS = {"RL": plots.VERMILION, "penalty": plots.BLUE, "ML": plots.ORANGE, "projection": plots.BLACK, "others": plots.GREEN}


def paths(axes: Axes, drawn: pd.DataFrame) -> None:
    """KL(pi‖pi_0) over success: the least, and the paths of exact gradients."""
    rows = drawn[drawn["panel"] == "path"]
    success = 1.0 / (1.0 + np.exp(-np.linspace(math.log(V / (1 - V)), 9.0, 100)))
    axes.plot(_log_odds(success), least(success, V), color=plots.BLACK, lw=1.4, label="least possible")
    free = rows[rows["method"] == "no penalty"].sort_values("success")
    axes.plot(_log_odds(free["success"]), free["kl_pi_start"], color=plots.VERMILION, label="policy gradient, no penalty")
    for direction, line, name in (("kl_pi_ref", "-", "KL(pi‖pi_0)"), ("kl_ref_pi", "--", "KL(pi_0‖pi)")):
        path = rows[(rows["direction"] == direction) & np.isclose(rows["beta"], 0.05)].sort_values("time")
        axes.plot(_log_odds(path["success"]), path["kl_pi_start"], line, color=plots.BLUE, label=f"the same, .05 {name}")
        axes.plot(_log_odds(path["success"].iloc[-1:]), path["kl_pi_start"].iloc[-1:], "o", color=plots.BLUE, ms=4)
    for method, colour, name in (("exact", plots.VERMILION, ""), ("natural", plots.GREY, "natural gradient, no penalty")):
        logged = drawn[(drawn["panel"] == "logged") & (drawn["method"] == method)]
        logged = logged[logged["success"] < 0.9995].sort_values("time")
        if len(logged) > 20:
            logged = logged.iloc[np.unique(np.geomspace(1, len(logged), 20).astype(int)) - 1]
        axes.plot(
            _log_odds(logged["success"]), logged["kl_pi_start"], "o", color=colour, ms=2.8, mec="white", mew=0.4, label=name
        )
    axes.set_xticks(_log_odds(list(TICKS)), list(TICKS.values()))
    axes.set(xlim=(-1.5, 8.0), ylim=(0.0, 2.3), xlabel="success probability (log-odds scale)", ylabel="KL(pi‖pi_0) (nats)")
    axes.set_title("one prompt: exact paths; dots are rlkl's steps")
    axes.legend(loc="lower right", fontsize=6.3)


def _log_odds(success) -> np.ndarray:
    success = np.asarray(success, float)
    return np.log(success / (1.0 - success))


def ends(axes: Axes, drawn: pd.DataFrame) -> None:
    """KL(pi‖pi_0) at the end of training on the one prompt, a row a method."""
    run, given = drawn[drawn["panel"] == "run"], drawn[drawn["panel"] == "given"]
    filtered = drawn[drawn["panel"] == "filtered"]
    penalised = run[np.isclose(run["beta"], 0.02)]
    shown = [
        ("ML, one correct answer", given[given["method"] == "one answer"], "ML"),
        ("ML, random answers", given[given["method"] == "random"], "ML"),
        ("ML, 10 or 100 correct\nsamples of pi_0", filtered, "ML"),
        ("rloo, no penalty", run[(run["method"] == "rloo") & (run["direction"] == "none")], "RL"),
        ("grpo, no penalty", run[(run["method"] == "grpo") & (run["direction"] == "none")], "RL"),
        ("exact, no penalty", run[(run["method"] == "exact") & (run["direction"] == "none")], "RL"),
        ("natural, no penalty", run[(run["method"] == "natural") & (run["direction"] == "none")], "RL"),
        ("exact, rloo, grpo,\n.02 KL(pi‖pi_0)", penalised[penalised["direction"] == "kl_pi_ref"], "penalty"),
        ("exact, rloo, grpo,\n.02 KL(pi_0‖pi)", penalised[penalised["direction"] == "kl_ref_pi"], "penalty"),
    ]
    for place, (_, rows, kind) in enumerate(reversed(shown)):
        height = place + np.linspace(-0.18, 0.18, len(rows)) if len(rows) > 3 else np.full(len(rows), place)
        size = 1.5 if len(rows) > 100 else 3.2
        axes.plot(rows["kl_pi_start"], height, "o", color=COLOURS[kind], ms=size, mec="white", mew=0.0 if size < 2 else 0.3)
    axes.axvline(-math.log(V), color=plots.BLACK, lw=0.8, ls=":")
    axes.text(-math.log(V) + 0.04, len(shown) - 0.45, "I-projection, -log v", fontsize=6.3, va="center")
    axes.set_yticks(range(len(shown)), [name for name, *_ in reversed(shown)], fontsize=6.3)
    axes.set(
        xlim=(1.4, 4.1),
        ylim=(-0.6, len(shown) - 0.1),
        xlabel="KL(pi‖pi_0) at the end (nats)",
        title="one prompt: where training ends",
    )
    axes.text(0.98, 0.42, "ML: maximum likelihood\non these answers", transform=axes.transAxes, fontsize=6.3, ha="right")


def forgetting_over_kl(axes: Axes, drawn: pd.DataFrame) -> None:
    """Forgetting over KL(pi_0‖pi), at success .9 and at the end, a dot a network, optimiser and method."""
    rows = drawn[drawn["panel"] == "network"]
    kinds = {
        "ML, given answers": ("ML", rows["method"].str.startswith("ML") & ~rows["method"].isin([PROJECTION, REPLAY])),
        "ML, I-projection": ("projection", rows["method"] == PROJECTION),
        "RL, KL penalty": ("penalty", rows["method"].str.startswith("RL") & (rows["method"] != NO_PENALTY)),
        "RL, no penalty": ("RL", rows["method"] == NO_PENALTY),
        "ML, I-projection, KL on\nother prompts": ("others", rows["method"] == REPLAY),
    }
    for name, (kind, chosen) in kinds.items():
        for at, filled in (("success 0.9", False), ("end", True)):
            dots = rows[chosen & (rows["at"] == at)]
            face = COLOURS[kind] if filled else "none"
            axes.plot(dots["kl_start_pi"], dots["forgetting"], "o", color=COLOURS[kind], mfc=face, ms=2.6, mew=0.5,
                      label=name if filled else None)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(0.8, 13), ylim=(1e-7, 8), xlabel="KL(pi_0‖pi), trained prompt (nats)")
    axes.set(ylabel="KL(pi_0‖pi), other prompts (nats)", title="network: forgetting; open at success .9, full at the end")
    axes.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.minorticks_off()
    axes.legend(loc="lower left", fontsize=6.3)


def at_equal_success(axes: Axes, drawn: pd.DataFrame) -> None:
    """Forgetting at success .9 over that of maximum likelihood on the I-projection: median and range of networks."""
    rows = drawn[(drawn["panel"] == "network") & (drawn["at"] == "success 0.9")]
    wide = rows.pivot_table("forgetting", ["optimizer", "seed"], "method")
    shown = {
        NO_PENALTY: "RL", f"RL, {BETAS[1]:g} KL(pi‖pi_0)": "penalty", f"RL, {BETAS[1]:g} KL(pi_0‖pi)": "penalty",
        "ML, all alike": "ML", "ML, answer 0": "ML", "ML, answer 1": "ML", "ML, answer 2": "ML", "ML, random 0": "ML",
        "ML, random 1": "ML", "ML, random 2": "ML", REPLAY: "others",
    }  # fmt: skip
    for place, (name, kind) in enumerate(reversed(shown.items())):
        if name not in wide or PROJECTION not in wide:
            continue
        ratio = (wide[name] / wide[PROJECTION]).dropna()
        axes.plot([ratio.min(), ratio.max()], [place, place], color=COLOURS[kind], lw=1.0)
        axes.plot(ratio.median(), place, "o", color=COLOURS[kind], ms=4)
    axes.axvline(1.0, color=plots.BLACK, lw=0.8, ls=":")
    shares = {f"answer {i}": f"answer of pi_0 = {START[i]:g}".replace("0.", ".") for i in range(CORRECT.sum())}
    names = [shares.get(name.removeprefix("ML, "), name) for name in shown]
    names = [f"ML, {name}" if name.startswith("answer") else name for name in names]
    names = [name.replace("0.1 ", ".1 ").replace(REPLAY, "ML, I-projection,\nKL on other prompts") for name in names]
    axes.set_yticks(range(len(shown)), names[::-1], fontsize=6.3)
    axes.set(xscale="log", xlim=(0.08, 6), xlabel="forgetting over that of ML on the I-projection")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], [".1", ".2", ".5", "1", "2", "5"])
    axes.minorticks_off()
    axes.set_title("network: forgetting at success .9")
