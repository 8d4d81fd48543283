"""`python -m experiments [NAME ...]`: build these experiments into paper/, or say which there are."""

import argparse
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.table import Table

from experiments.harness import build, page
from experiments.harness.page import evidence
from rlkl import errors
from rlkl.config import machine
from rlkl.reports.console import console

USAGE = """python -m experiments                 what there is, and what is built
       python -m experiments NAME ...        build these into paper/NAME
       python -m experiments all             build everything, then paper/index.html
       python -m experiments page            paper/index.html alone, of what is built"""


def main(argv: list[str]) -> int:
    """Build each named experiment; status 1 where a claim is false or a build failed, 2 for a bad command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments", usage=USAGE)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="reduced: few steps, one seed; claims are stated, not enforced")
    parser.add_argument("--redraw", action="store_true", help="figure and claims anew from figure.csv: nothing is trained")
    parser.add_argument("--readme", action="store_true", help="also copy figure.png and figure.csv beside figure.py")
    parser.add_argument("--out", type=Path, help="where to build (paper, or outputs/quick with --quick)")
    given = parser.parse_args(argv)
    known = build.names()
    if given.quick and (given.redraw or given.readme):
        parser.error("--quick: what is reduced is for tests alone, not to be kept or redrawn")
    for name in given.names:
        if name not in (*known, "all", "page"):
            parser.error(f"NAME={name!r}: {errors.nearest(name, known)}")
    out = given.out or Path("outputs/quick" if given.quick else "paper")
    if not given.names:
        console.print(listing(out))
        return 0
    whole = "all" in given.names
    chosen = known if whole else [name for name in given.names if name != "page"]
    held = (
        [build_and_report(name, out / name, given) for name in chosen]
        if len(chosen) == 1
        else build_side_by_side(chosen, out, given)
    )
    if whole or "page" in given.names:
        complaints = page.write(out)
        for complaint in complaints:
            console.print(f"paper: {complaint}", markup=False)
        console.print(f"wrote {out / 'index.html'}", markup=False)
        held.append(not complaints or given.quick)
    return 0 if all(held) else 1


def build_side_by_side(names: Sequence[str], out: Path, given: argparse.Namespace) -> list[bool]:
    """Each experiment by this command in a process of its own, one a core at a time; what it says is shown when it is done."""
    flags = [f"--{flag}" for flag in ("quick", "redraw", "readme") if getattr(given, flag)] + ["--out", str(out)]

    def build_one(name: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "experiments", name, *flags]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False
        )

    held = []
    with ThreadPoolExecutor(machine.cores()) as pool:
        started = [pool.submit(build_one, name) for name in names]
        for number, done in enumerate(as_completed(started), 1):
            console.print(done.result().stdout, markup=False, highlight=False, end="", soft_wrap=True)
            console.print(f"{number} of {len(names)} experiments", markup=False)
            held.append(done.result().returncode == 0)
    return held


def build_and_report(name: str, out: Path, given: argparse.Namespace) -> bool:
    """Build or redraw one experiment and show its claims; whether it holds. An error in one leaves the others their turn."""
    runs_in = Path("outputs") / "experiments" / name
    if given.redraw and not (out / "manifest.json").is_file():
        console.print(f"{name}: there is nothing to redraw in {out}", markup=False)
        return False
    try:
        finished = build.redraw(name, out) if given.redraw else build.build(name, runs_in, out, given.quick)
        closing = getattr(build.module(name), "closing", None)
        if closing is not None and finished.runs is not None:
            console.print(closing(finished.runs))
    except (Exception, SystemExit):
        traceback.print_exc()
        console.print(f"{name}: not built", markup=False)
        return False
    console.print(verdicts(name, finished))
    console.print(f"figure, its numbers, the claims and what they came from: {out}", markup=False)
    if given.readme:
        for kept in ("figure.png", "figure.csv"):
            shutil.copyfile(out / kept, build.HERE / name / kept)
    if name == "demo" and finished.runs is not None:
        console.print(NEXT.format(runs=finished.runs.root), markup=False)
    return finished.reduced or all(claim.verdict for claim in finished.claims)


def verdicts(name: str, finished: build.Finished) -> Table:
    """The claims as a table."""
    about = f"{name}: claims" + (" (reduced: stated, not enforced)" if finished.reduced else "")
    shown = Table("claim", "value", "bound", "holds", title=about, title_justify="left")
    for claim in finished.claims:
        shown.add_row(claim.claim, f"{claim.value:.4g}", claim.bound, "yes" if claim.verdict else "NO")
    return shown


def listing(out: Path) -> Table:
    """Every experiment: what it shows, and what stands in `out`."""
    shown = Table("experiment", "shows", "built", title=f"experiments, and what is built in {out}", title_justify="left")
    for name in build.names():
        shown.add_row(name, evidence.describe(name).headline, evidence.state(name, out / name))
    return shown


NEXT = """
next:
  .venv/bin/rlkl task=bandit/words penalty=forward_kl penalty.beta=0.05      one run, with its table
  .venv/bin/rlkl plot {runs}/0/0                                             draw one of the runs above
  .venv/bin/rlkl -m task=bandit/two_modes penalty=reverse_kl,forward_kl penalty.beta=0.05,0.1,0.5 seed=0,1,2
  .venv/bin/rlkl --help                                                      groups, examples, where output goes
  wandb sync {runs}/*/*/wandb/offline-run-*                                  upload the runs above, if you like"""
