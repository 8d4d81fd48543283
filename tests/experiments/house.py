"""The experiments' committed numbers; and a house of experiments made by a test: each is a folder, and nothing else says that
it exists."""

from pathlib import Path

import pandas as pd

from experiments.harness import build

FIGURE = '''"""The coin: how heads grow with the bias, and {more}.

Sources: Bernoulli 1713, "Ars conjectandi"; nobody 2025, arXiv 2501.00001.
"""

import pandas as pd
from matplotlib.figure import Figure

from experiments.harness.claims import at_most, near
from rlkl.reports import plots


def table(runs{quick}):
    x = [0.1, 0.2, 1 / 3]
    return pd.DataFrame({{"x": x, "y": [{slope} * at for at in x], "</said>": ['a, "b"', "<c>", None]}})


def claims(drawn):
    return [
        near("slope of y & x", (drawn["y"] / drawn["x"]).mean(), 2.0, 1e-9),
        at_most("nothing is missing", drawn["y"].isna().sum() if len(drawn) else float("nan"), 0.0),
    ]


def draw(drawn):
    with plots.styled():
        figure = Figure(figsize=(plots.COLUMN, 2.0))
        figure.subplots().plot(drawn["x"], drawn["y"], "o")
        return figure
'''
TRAINED = '- [task=bandit/two_modes, steps=40, "penalty.beta=0.1,0.2", "seed=0,1", tracking=none]\n'


def add(home: Path, name: str, sweep: str = "[]\n", slope: float = 2.0, quick: str = "") -> None:
    """An experiment that claims a slope of 2."""
    (home / name).mkdir(exist_ok=True)
    (home / name / "sweep.yaml").write_text(sweep)
    (home / name / "figure.py").write_text(FIGURE.format(slope=slope, more=f"that of {name}", quick=quick))


def committed(name: str) -> pd.DataFrame:
    """The numbers that are committed beside an experiment."""
    return pd.read_csv(build.HERE / name / "figure.csv")
