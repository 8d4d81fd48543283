"""Digits: asked for a random digit, models favour one where annotators like what is typical; which remedies make it uniform.

Sources: West and Potts 2025, "Base models beat aligned models at randomness and creativity", arXiv 2505.00047 (aligned models
prefer 7); Zhang et al. 2025, "Verbalized sampling", arXiv 2510.01171 (a = .57; pi_ref^(1 + a/beta)); Kubovy and Psotka 1976,
"The predominance of seven and the apparent spontaneity of numerical choices" (28.4% of 558 people say 7).
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.digits import optima, panels, verdicts
from experiments.digits.optima import DIGIT, DIRECTIONS, FACT, FAVOURITE, RAREST, REFERENCE
from experiments.digits.remedies import REMEDIES
from experiments.harness.claims import Claim
from rlkl import tasks
from rlkl.reports import plots
from rlkl.runs.load import Runs
from rlkl.tasks.preferences import annotators

MEASURED, BETA = 0.57, 0.5  # the measured weight of typicality, and the coefficient at which remedies are compared
WEIGHTS = (0.0, 0.25, MEASURED, 1.0)
BETAS = np.geomspace(0.05, 2.0, 60)
TEMPERATURES = np.geomspace(0.5, 20.0, 400)
PAIRS, SETS = (100, 300, 1000, 3000, 10_000), 60
COLUMNS = [
    "panel", "direction", "weight", "beta", "remedy", "digit", "p", "favourite", "rarest", "entropy", "from_uniform", "fact",
    "kl", "algorithm", "seed", "regret", "apart", "pairs", "recovered", "stderr",
]  # fmt: skip


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """Optima over beta ("curve"), remedies ("remedy", "digit"), temperatures, runs ("run"), recovered weights ("pairs")."""
    rows = [*_curves(), *_remedies(), *_temperatures(), *_trained(runs), *_recovered(3 if quick else SETS)]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def _described(policy: np.ndarray) -> dict[str, float]:
    return {
        "favourite": policy[FAVOURITE], "rarest": policy[RAREST], "entropy": optima.entropy(policy),
        "from_uniform": _apart(policy, np.full(10, 0.1)), "kl": optima.kl(policy, REFERENCE),
    }  # fmt: skip


def _apart(first: np.ndarray, second: np.ndarray) -> float:
    """Total variation."""
    return 0.5 * float(np.abs(first - second).sum())


def _curves() -> list[dict]:
    return [
        {"panel": "curve", "direction": direction, "weight": weight, "beta": beta}
        | _described(optima.biased(direction, DIGIT, weight, beta))
        for direction in DIRECTIONS for weight in WEIGHTS for beta in [*BETAS, 0.1, BETA, 1.0]
    ]  # fmt: skip


def _remedies() -> list[dict]:
    """Each remedy's digits, and the right answer's probability on the prompt that has one."""
    rows: list[dict] = []
    for direction in DIRECTIONS:
        for name, remedy in REMEDIES.items():
            policy, fact = (remedy(direction, prompt, MEASURED, BETA) for prompt in (DIGIT, FACT))
            said = {"direction": direction, "weight": MEASURED, "beta": BETA, "remedy": name}
            asked = np.nan if name == "verbalised distribution" else fact[FACT.gold.argmax()]
            rows.append({"panel": "remedy", "fact": asked} | said | _described(policy))
            rows += [{"panel": "digit", "digit": digit, "p": p} | said for digit, p in enumerate(policy)]
    return rows


def _temperatures() -> list[dict]:
    """The least total variation from the reference of the biased optimum at any temperature."""
    rows: list[dict] = []
    for direction in DIRECTIONS:
        policy = optima.biased(direction, DIGIT, MEASURED, BETA)
        grid = [*TEMPERATURES, 1.0 + MEASURED / BETA]
        apart = min(_apart(optima.tempered(policy, temperature), REFERENCE) for temperature in grid)
        hot = optima.tempered(policy, 5.0)
        rows.append({"panel": "temperature", "direction": direction, "apart": apart} | _described(hot))
    return rows


def _trained(runs: Runs) -> list[dict]:
    """A row a run; apart: total variation from the closed form of its setting."""
    rows = []
    for _, run in runs.summary.iterrows():
        pi = runs.outcomes.loc[runs.outcomes["run"] == run["run"], "policy"].to_numpy(float)
        name, direction = _remedy(run), run["divergence"]
        weight = float(run.get("override.task.typicality", MEASURED)) if _given(run, "task.typicality") else MEASURED
        target = REMEDIES[name](direction, DIGIT, weight, run["beta"])
        said = {"panel": "run", "direction": direction, "weight": weight, "beta": run["beta"], "remedy": name}
        graded = {"algorithm": run["algorithm"], "seed": run["seed"], "regret": run["regret"], "apart": _apart(pi, target)}
        rows.append(said | _described(pi) | graded)
    return rows


def _given(run: pd.Series, key: str) -> bool:
    return isinstance(run.get(f"override.{key}"), str)


def _remedy(run: pd.Series) -> str:
    """The name of the remedy that a run's overrides are."""
    if not _given(run, "reward_shaping"):
        return "none"
    return "- (a + beta) log pi_ref" if float(run["override.reward_shaping.weight"]) > MEASURED else "- a log pi_ref"


def _recovered(sets: int) -> list[dict]:
    """The weight recovered from finitely many answers, and where its subtraction leaves the optimum under KL(pi‖pi_ref)."""
    task = annotators.under_gold(tasks.build("bandit/custom", reward=[1.0] * 10, reference=REFERENCE.tolist()).task)
    rows = []
    for pairs in PAIRS:
        for seed in range(sets):
            found = annotators.recovered(task, annotators.ask(task, annotators.Preferences(MEASURED, 1.0), pairs, seed))
            weight, error = found or (np.nan, np.nan)
            policy = optima.biased("kl_pi_ref", DIGIT, MEASURED - weight, BETA)
            said = {"panel": "pairs", "weight": MEASURED, "beta": BETA, "pairs": pairs, "seed": seed}
            rows.append(said | {"recovered": weight, "stderr": error} | _described(policy))
    return rows


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    return verdicts.claims(drawn)


def draw(drawn: pd.DataFrame) -> Figure:
    """The favourite digit over beta; the digits before and after; remedies; the recovered weight."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 5.9))
        (first, second), (third, fourth) = figure.subplots(2, 2)
        panels.favourite_over_beta(first, drawn)
        panels.digits(second, drawn)
        panels.remedies(third, drawn)
        panels.recovered(fourth, drawn)
        return figure
