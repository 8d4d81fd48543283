"""Real training ends where the check says: TRL's trainers on a tiny random GPT-2, with samples that it draws itself.

`python -m experiments.conformance.ends` trains (PyTorch and TRL, half an hour or more) and writes ends.csv and ends.png;
`--figure` draws ends.csv anew. A row holds the total variation of one trained policy to one of the policies that it might end
at: the exact optimum of E[r] - beta D under each direction of the KL; with several tokens also the myopic policies, at which
the semi-gradients of these vanish; and the reference.

Every seed has its own network, rewards and samples. GRPO's baseline is the mean of its group of G, which shrinks the reward's
part of the gradient by (G-1)/G: its beta is worth G/(G-1) as much.
"""

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.wrong_gradient.targets import myopic
from rlkl.diagnostics.check.worlds import tree
from rlkl.divergences import REGISTRY
from rlkl.exact import optimal_policy
from rlkl.exact.objective import Objective
from rlkl.policies.base import Fixed
from rlkl.reports import plots
from rlkl.reports.over_seeds import spread
from rlkl.rollouts.batch import enumerate_all
from rlkl.rollouts.scoring import log_probability
from rlkl.settings import numerics
from rlkl.tasks.automaton import Automaton, Task

FOLDER = Path(__file__).parent
VOCABULARY, GROUP, BETA = 5, 64, 0.3
SEEDS = (1, 2, 3, 5, 6)  # the first at which all possible ends are at least .07 apart in total variation
STEPS = {1: 600, 3: 1500}  # by the largest number of tokens
KLS = ("kl_pi_ref", "kl_ref_pi")
LEAST = 1e-4  # total variation at the end of the figure's axis


class Case(NamedTuple):
    """A trainer, its options, the number of tokens, and the end that `rlkl check` predicts."""

    trainer: str
    options: dict[str, Any]
    tokens: int
    predicted: str


UNSCALED = {"scale_rewards": "none"}
UNCORRECTED = UNSCALED | {"use_bias_correction_kl": False}
CASES = (
    Case("GRPOTrainer", UNSCALED, 1, "optimum kl_pi_ref"),
    Case("GRPOTrainer", UNCORRECTED, 1, "optimum kl_ref_pi"),
    Case("RLOOTrainer", {}, 1, "optimum kl_pi_ref"),
    Case("GRPOTrainer", UNSCALED, 3, "myopic kl_pi_ref"),
    Case("GRPOTrainer", UNCORRECTED, 3, "myopic kl_ref_pi"),
    Case("RLOOTrainer", {}, 3, "optimum kl_pi_ref"),
)


def possible_ends(
    automaton: Automaton, reward: Float[np.ndarray, " Y"], log_reference: Float[np.ndarray, "D V"], beta: float
) -> dict[str, Float[np.ndarray, " Y"]]:
    """The probability of each sequence at each policy that training might end at."""
    batch = enumerate_all(automaton)
    of_state = np.zeros(automaton.states)
    of_state[batch.states[:, -1]] = reward
    task = Task(automaton, of_state, log_reference, np.zeros(()), np.arange(float(automaton.vocabulary)))
    reference = Fixed(log_reference, automaton.horizon)
    log_ref = log_probability(reference, batch)
    ends = {}
    for name in KLS:
        objective = Objective(task, reference, REGISTRY[name], beta=jnp.asarray(beta))
        ends[f"optimum {name}"] = optimal_policy.solve(objective).log_probability(batch, log_ref)
        if automaton.horizon > 1:
            table = myopic(task, name, jnp.asarray(beta))
            ends[f"myopic {name}"] = log_probability(Fixed(table, automaton.horizon), batch)
    ends["reference"] = log_ref
    return {name: np.exp(np.asarray(log_pi)) for name, log_pi in ends.items()}


def train(case: Case, seed: int, steps: int) -> list[dict[str, Any]]:
    """Rows of one training: the total variation to each possible end."""
    from experiments.conformance import gpt2

    automaton = tree(VOCABULARY, case.tokens, ends=1)
    reward = np.random.default_rng(seed).integers(0, 9, size=int(automaton.sequences)) / 8
    start, end = gpt2.train(
        case.trainer, automaton, reward, group=GROUP, steps=steps, seed=seed, options={"beta": BETA, **case.options}
    )
    beta = BETA * GROUP / (GROUP - 1) if case.trainer == "GRPOTrainer" else BETA
    with numerics.pinned():
        ends = possible_ends(automaton, reward, start, beta)
        trained = np.exp(np.asarray(log_probability(Fixed(end, automaton.horizon), enumerate_all(automaton))))
    options = " ".join(f"{key}={value}" for key, value in case.options.items())
    run = {
        "trl": importlib.metadata.version("trl"),
        "trainer": case.trainer,
        "options": options,
        "tokens": case.tokens,
        "seed": seed,
        "steps": steps,
    }
    return [
        run | {"end": name, "predicted": name == case.predicted, "total_variation": 0.5 * np.abs(trained - probability).sum()}
        for name, probability in ends.items()
    ]


def nearest_is_predicted(table: pd.DataFrame) -> bool:
    """Whether every run ended nearest to the end that was predicted."""
    runs = table.groupby(["trainer", "options", "tokens", "seed"], dropna=False)
    return all(bool(run.loc[run["total_variation"].idxmin(), "predicted"]) for _, run in runs)


MARKERS = {"optimum": "o", "myopic": "D", "reference": "X"}
NAMES = {
    "GRPOTrainer scale_rewards=none": "GRPO",
    "GRPOTrainer scale_rewards=none use_bias_correction_kl=False": "GRPO, uncorrected",
    "RLOOTrainer": "RLOO",
}


def draw(table: pd.DataFrame) -> Figure:
    """A row for each case: the total variation to each possible end, of which the predicted one is filled.

    Interquartile means over seeds with 95% intervals; below 1e-4 they are drawn at 1e-4.
    """
    table = table.assign(case=(table["trainer"] + " " + table["options"]).str.strip().map(NAMES))
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 1.9))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (tokens, rows) in zip(panels, table.groupby("tokens"), strict=True):
            for (case, end), runs in rows.groupby(["case", "end"], sort=False):
                _point(axes, -list(NAMES.values()).index(case), end, runs)
            axes.set(xscale="log", xlim=(0.8 * LEAST, 1.0), ylim=(-2.5, 0.5), xlabel="total variation to the trained policy")
            axes.set_title("one token" if tokens == 1 else f"up to {tokens} tokens")
            axes.set_yticks([-y for y in range(len(NAMES))], list(NAMES.values()))
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
        return figure


def _look(end: str) -> tuple[str, str]:
    """The colour and the marker of an end."""
    kind, _, divergence = end.partition(" ")
    return plots.look(divergence)[0] if divergence else plots.GREY, MARKERS[kind]


def _point(axes: Axes, y: int, end: str, runs: pd.DataFrame) -> None:
    colour, marker = _look(end)
    interval = np.maximum(spread([runs["total_variation"].to_numpy()]), LEAST)
    filled = colour if runs["predicted"].all() else "white"
    axes.plot(interval[1:], [y, y], color=colour, lw=0.8)
    axes.plot(interval[:1], [y], marker, color=colour, mfc=filled, mew=0.8, ms=4.5)


def _legend() -> list[Line2D]:
    ends = {f"{kind} {name}": f"{kind} policy of {REGISTRY[name].formula}" for kind in ("optimum", "myopic") for name in KLS}
    ends = {end: says.replace("optimum policy", "optimum") for end, says in ends.items()} | {"reference": "reference"}
    handles = [
        Line2D([], [], ls="", marker=_look(end)[1], color=_look(end)[0], mfc="white", mew=0.8, label=says)
        for end, says in ends.items()
    ]
    return [*handles, Line2D([], [], ls="", marker="o", color=plots.BLACK, label="filled: predicted by the check")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", action="store_true", help="only draw ends.csv")
    if not parser.parse_args().figure:
        rows: list[dict[str, Any]] = []
        for seed in SEEDS:
            for case in CASES:
                rows += train(case, seed, STEPS[case.tokens])
                pd.DataFrame(rows).to_csv(FOLDER / "ends.csv", index=False, float_format="%.6f")
    table = pd.read_csv(FOLDER / "ends.csv", keep_default_na=False)
    plots.save(draw(table), FOLDER / "ends", ("png",))
    print("every run ended nearest to its predicted end" if nearest_is_predicted(table) else "some run ended elsewhere")


if __name__ == "__main__":
    main()
