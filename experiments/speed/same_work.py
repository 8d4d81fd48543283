"""`python -m experiments.speed.same_work`: whether the peers of the benchmarks do the same work as rlkl. Exits with 1 if not.

Each peer trains many runs for the same number of steps, by the code that is timed. On bandits, all must end at the same mean
regret; on sequences, at the same mean reward and KL. "The same" is a difference below LIMIT standard errors over runs, both
sides' combined. Networks also get a tolerance, a share of what training changed: PyTorch's and GPT-2's have biases and other
layer norms, and PyTorch's GRU has an input matrix that rlkl's embedding holds already.

TRL's policies are compared on its own objective: its reference is the policy that it starts from. RLOO's reward and KL are
compared. GRPO has another loss (normalised advantages, k3 in the loss): only its tokens an update are compared.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.progress import track

from experiments.speed import __main__ as sequences
from experiments.speed import throughput, work
from experiments.speed.turns import RLKL, Peer, finish, output, present, rich_table
from rlkl.config import terminal
from rlkl.reports.console import console

OUT = Path("paper") / "speed" / "same_work.csv"
LIMIT = 4.0
TOLERANCE = {"gru": 0.2, "transformer": 0.2, "TRL": 0.2}
# Where sequences start: under the uniform policy, whose KL to the bigram reference has a closed form.
UNIFORM = {
    "reward": float(work.reward().mean()),
    "kl": -math.log(work.VOCABULARY) * work.LENGTH
    - float((work.LENGTH - 1) * pd.DataFrame(work.reference()[:-1]).map(math.log).values.mean())
    - float(pd.Series(work.reference()[-1]).map(math.log).mean()),
}
TRL_RLKL = Peer("TRL", RLKL, "jax", ("rlkl_peer", "--kind", "transformer", "--task", "trl"))
TRL = [peer._replace(task="TRL") for peer in sequences.PEERS if peer.needs == "trl"]
PEERS = (
    *(peer for peer in throughput.PEERS if "exact gradient" not in peer.name),
    *(peer for peer in sequences.PEERS if peer.needs != "trl"),
    TRL_RLKL,
    *TRL,
)
SIZES = {
    "10 arms": (256, 100),
    "1,000 arms": (32, 100),
    "tabular": (16, 300),
    "gru": (4, 300),
    "transformer": (4, 100),
    "TRL": (3, 100),
}


class Sample(NamedTuple):
    """A quantity's mean over runs and its standard error."""

    mean: float
    stderr: float


def sample(values: list[float]) -> Sample:
    """The mean of the runs' values and its standard error."""
    return Sample(statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5)


def change(task: str, quantity: str, end: float) -> float:
    """How far training moved a quantity of a sequence task from the uniform policy's."""
    start = 0.0 if (task, quantity) == ("TRL", "kl") else UNIFORM[quantity]
    return abs(end - start)


def row(peer: Peer, quantity: str, own: list[float], other: list[float]) -> dict:
    """Compare one quantity of a peer's runs with rlkl's."""
    ours, theirs = sample(own), sample(other)
    stderr = math.hypot(ours.stderr, theirs.stderr)
    tolerance = TOLERANCE.get(peer.task, 0.0)
    bound = LIMIT * stderr + (tolerance * change(peer.task, quantity, ours.mean) if tolerance else 0.0)
    difference = theirs.mean - ours.mean
    return {
        "task": peer.task,
        "peer": peer.name,
        "quantity": quantity,
        "runs": len(other),
        "rlkl": ours.mean,
        "peer's": theirs.mean,
        "difference": difference,
        "standard error": stderr,
        "bound": bound,
        "same": "yes" if abs(difference) <= bound else "no",
    }


def rows_of(peer: Peer, own: dict[str, list[float]], other: dict[str, list[float]]) -> list[dict]:
    """Compare every quantity of a peer with rlkl's; of TRL's GRPO only the tokens of an update."""
    tokens = other.pop("tokens", None)
    rows = [] if peer.name == "TRL, GRPO" else [row(peer, quantity, own[quantity], other[quantity]) for quantity in other]
    if tokens:
        wanted, mean = float(work.BATCH * work.LENGTH), statistics.mean(tokens)
        size = {"task": peer.task, "peer": peer.name, "quantity": "tokens an update", "runs": len(tokens)}
        same = "yes" if mean == wanted else "no"
        rows.append({**size, "rlkl": wanted, "peer's": mean, "difference": mean - wanted, "bound": 0.0, "same": same})
    return rows


def compare(peers: list[Peer], python: str) -> pd.DataFrame:
    """Train the runs of every peer and compare each with rlkl's. A peer that fails is a row that is not the same."""
    own: dict[str, dict[str, list[float]]] = {}
    rows: list[dict] = []
    for peer in track(peers, console=console, description="the same work"):
        runs, steps = SIZES[peer.task]
        ends = output(peer, python, "--runs", str(runs), "--steps", str(steps))
        if ends is None:
            rows.append({"task": peer.task, "peer": peer.name, "same": "no"})
            continue
        ends = {name: ends[name] for name in ("regret", "reward", "kl", "tokens") if name in ends}
        if peer.name == RLKL:
            own[peer.task] = ends
        else:
            rows += rows_of(peer, own[peer.task], ends)
    return pd.DataFrame(rows)


def main() -> None:
    """Compare, show, write the rows, and exit with 1 if a peer does other work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter that has torch and trl")
    options = parser.parse_args()
    table = compare(present(PEERS, options.peers_python), options.peers_python)
    finish(rich_table(table, "how the peers' runs end, beside rlkl's"), table, OUT)
    sys.exit(int((table.same != "yes").any()))


if __name__ == "__main__":
    terminal.configure()
    main()
