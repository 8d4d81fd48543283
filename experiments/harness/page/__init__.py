"""paper/index.html: one page that needs no network, of what stands in the folders beside it, and whether all of it holds."""

from pathlib import Path

from experiments.harness import build
from experiments.harness.page import evidence, render
from rlkl.runs.folder import files


def write(out: Path) -> list[str]:
    """Write `out`/index.html from the experiments' folders in `out`; returns what keeps the paper from holding, a line each."""
    shown = [evidence.gather(name, out / name) for name in build.names()]
    said = evidence.sayings(shown)
    complaints = [line for each in shown for line in each.complaints]
    complaints += [f"“{each.saying}” rests on {each.experiment}, {line}" for each in said for line in each.complaints]
    files.write(out / "index.html", render.page(shown, said, complaints))
    return complaints
