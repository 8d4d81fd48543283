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
    axes.plot(_log_odds(free["success"]), free["kl_pi_start"], color=plots.VERMILION, label="no penalty")
    for direction, line, name in (("kl_pi_ref", "-", "KL(pi‖pi_0)"), ("kl_ref_pi", "--", "KL(pi_0‖pi)")):
        path = rows[(rows["direction"] == direction) & np.isclose(rows["beta"], 0.05)].sort_values("time")
        axes.plot(_log_odds(path["success"]), path["kl_pi_start"], line, color=plots.BLUE, label=f".05 {name}")
        axes.plot(_log_odds(path["success"].iloc[-1:]), path["kl_pi_start"].iloc[-1:], "o", color=plots.BLUE, ms=4)
    for method, colour, name in (("exact", plots.VERMILION, ""), ("natural", plots.GREY, "no penalty, natural gradient")):
        logged = drawn[(drawn["panel"] == "logged") & (drawn["method"] == method)]
        logged = logged[logged["success"] < 0.9995].sort_values("time")
        if len(logged) > 20:
            logged = logged.iloc[np.unique(np.geomspace(1, len(logged), 20).astype(int)) - 1]
        axes.plot(
            _log_odds(logged["success"]), logged["kl_pi_start"], "o", color=colour, ms=2.8, mec="white", mew=0.4, label=name
        )
    axes.set_xticks(_log_odds(list(TICKS)), list(TICKS.values()))
    axes.set(xlim=(-1.5, 8.0), ylim=(0.0, 2.3), xlabel="success probability (log-odds scale)", ylabel="KL(pi‖pi_0) (nats)")
    axes.set_title("one prompt: exact gradients, SGD (dots: rlkl)")
    axes.text(5.95, 1.88, "answer of .06\ncomes back", fontsize=6.3, color=plots.BLUE, va="center")
    axes.text(5.4, 1.53, "then that of .02", fontsize=6.3, color=plots.BLUE, va="top")
    axes.legend(loc="lower right", fontsize=6.3)


def _log_odds(success) -> np.ndarray:
    success = np.asarray(success, float)
    return np.log(success / (1.0 - success))


def ends(axes: Axes, drawn: pd.DataFrame) -> None:
    """KL(pi‖pi_0) at the end of training on the one prompt, a row a method."""
    run, given = drawn[drawn["panel"] == "run"], drawn[drawn["panel"] == "given"]
    filtered = drawn[drawn["panel"] == "filtered"]
    penalised = run[np.isclose(run["beta"], 0.02)]
    gives_up = penalised[penalised["direction"] == "kl_ref_pi"]

    def free(method: str, optimizer: str) -> pd.DataFrame:
        return run[(run["direction"] == "none") & (run["method"] == method) & (run["optimizer"] == optimizer)]

    shown = [
        ("ML, one correct answer", given[given["method"] == "one answer"], "ML"),
        ("ML, random answers", given[given["method"] == "random"], "ML"),
        ("ML, 10 or 100 correct\nsamples of pi_0", filtered, "ML"),
        ("rloo, no penalty, Adam", free("rloo", "adam"), "RL"),
        ("grpo, no penalty, Adam", free("grpo", "adam"), "RL"),
        ("rloo, grpo, no penalty, SGD", pd.concat([free("rloo", "sgd"), free("grpo", "sgd")]), "RL"),
        ("exact, no penalty, SGD", free("exact", "sgd"), "RL"),
        ("exact, no penalty, Adam", free("exact", "adam"), "RL"),
        ("natural, no penalty, SGD", free("natural", "sgd"), "RL"),
        ("exact, rloo, grpo, Adam,\n.02 KL(pi‖pi_0)", penalised[penalised["direction"] == "kl_pi_ref"], "penalty"),
        ("exact, rloo, grpo, Adam,\n.02 KL(pi_0‖pi)", gives_up, "penalty"),
    ]
    for place, (_, rows, kind) in enumerate(reversed(shown)):
        height = place + np.linspace(-0.18, 0.18, len(rows)) if len(rows) > 3 else np.full(len(rows), place)
        size = 1.5 if len(rows) > 100 else 3.2
        axes.plot(rows["kl_pi_start"], height, "o", color=COLOURS[kind], ms=size, mec="white", mew=0.0 if size < 2 else 0.3)
    if len(gives_up):
        reached = f"success {gives_up['success'].mean():.3f}".replace("0.", ".")
        axes.text(-math.log(V) + 0.04, 0.0, f"left of it, since {reached}", fontsize=6.3, va="center")
    axes.axvline(-math.log(V), color=plots.BLACK, lw=0.8, ls=":")
    axes.text(-math.log(V) + 0.04, len(shown) - 0.45, "I-projection, -log v", fontsize=6.3, va="center")
    axes.set_yticks(range(len(shown)), [name for name, *_ in reversed(shown)], fontsize=6.3, linespacing=1.0)
    axes.set(
        xlim=(1.4, 4.1),
        ylim=(-0.6, len(shown) - 0.1),
        xlabel="KL(pi‖pi_0) at the end (nats)",
        title="one prompt: where training ends",
    )
    axes.text(
        0.98, 0.42, "ML: maximum likelihood\non these answers", transform=axes.transAxes, fontsize=6.3, ha="right", va="center"
    )


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
    axes.set(ylabel="KL(pi_0‖pi), other prompts (nats)", title="network: forgetting")
    axes.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.minorticks_off()
    axes.legend(loc="lower left", fontsize=6.3, title="open: success .9; full: end", title_fontsize=6.3)


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
    random = np.random.default_rng(0).dirichlet(np.ones(CORRECT.sum()), 3)  # as in `forgetting.methods`
    shares |= {f"random {i}": "ML, shares " + ", ".join(f"{x:.2f}"[1:] for x in row) for i, row in enumerate(random)}
    names = [shares.get(name.removeprefix("ML, "), name) for name in shown]
    names = [f"ML, {name}" if name.startswith("answer") else name for name in names]
    names = [name.replace("0.1 ", ".1 ").replace(REPLAY, "ML, I-projection,\nKL on other prompts") for name in names]
    axes.set_yticks(range(len(shown)), names[::-1], fontsize=6.3)
    axes.set(xscale="log", xlim=(0.08, 6))
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], [".1", ".2", ".5", "1", "2", "5"])
    axes.minorticks_off()
    label = "forgetting over that of ML on the I-projection:\nmedian and range of 8 networks x 2 optimisers"
    axes.set_xlabel(label, fontsize=7)
    axes.set_title("network: forgetting at success .9")
