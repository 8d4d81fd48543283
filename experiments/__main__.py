"""`python -m experiments [NAME ...]`: build these experiments, or say which there are."""

import shutil
import sys
from pathlib import Path

from rich.table import Table

from experiments import build
from rlkl import report


def main(argv: list[str]) -> int:
    """Build each named experiment into paper/NAME; status 1 where a claim is false."""
    unknown = [name for name in argv if name not in build.names()]
    if unknown or not argv:
        print(f"usage: python -m experiments NAME ...   (NAME: {', '.join(build.names())})", file=sys.stderr)
        return 2
    held = True
    for name in argv:
        runs_in, out = Path("outputs") / "experiments" / name, Path("paper") / name
        shutil.rmtree(runs_in, ignore_errors=True)
        finished = build.build(name, runs_in, out)
        closing = getattr(build.module(name), "closing", None)
        if closing is not None:
            report.console.print(closing(finished.runs))
        report.console.print(verdicts(finished.claims))
        report.console.print(f"runs in {runs_in}; figure, its numbers and the claims in {out}:", markup=False)
        for path in sorted(out.iterdir()):
            report.console.print(f"  {path}", markup=False)
        held &= all(claim.verdict for claim in finished.claims)
        if name == "demo":
            report.console.print(NEXT, markup=False)
    return 0 if held else 1


def verdicts(claims: list[build.Claim]) -> Table:
    """The claims as a table."""
    shown = Table("claim", "value", "bound", "holds", title="claims", title_justify="left")
    for claim in claims:
        shown.add_row(claim.claim, f"{claim.value:.4g}", claim.bound, "yes" if claim.verdict else "NO")
    return shown


NEXT = """
next:
  .venv/bin/rlkl task=bandit/words penalty=forward_kl penalty.beta=0.05      one run, with its table
  .venv/bin/rlkl plot outputs/experiments/demo/0/0                           draw one of the runs above
  .venv/bin/rlkl -m task=bandit/two_modes penalty=reverse_kl,forward_kl penalty.beta=0.05,0.1,0.5 seed=0,1,2
  .venv/bin/rlkl --help                                                      groups, examples, where output goes
  wandb sync outputs/experiments/demo/*/*/wandb/offline-run-*                upload the runs above, if you like"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
