"""`python -m experiments.speed.throughput`: 256 runs on a bandit, beside other ways to train them; medians of ratios.

rlkl, the batched PyTorch peers and the floor in C are measured with one thread and with two. Scans train one run after the
other, as a loop over runs is written; a second core does not help them much.
"""

from pathlib import Path

from experiments.speed.turns import RLKL, Peer, compare
from rlkl.config import terminal

OUT = Path("paper") / "speed" / "throughput.csv"


def peers_at(arms: int, scans: tuple[float, float], compiled: float) -> list[Peer]:
    """rlkl and its peers at a number of arms, with the ratios wanted against scans (categorical, inverse) and `compiled`."""

    def peer(name: str, choice: str, needs: str, wanted: float | None = None, each_count: bool = False) -> Peer:
        return Peer(f"{arms:,} arms", name, needs, ("bandit_peers", "--peer", choice, "--arms", str(arms)), wanted, each_count)

    return [
        peer(RLKL, "rlkl", "jax"),
        peer("rlkl, exact gradient", "exact", "jax"),
        peer("scans, categorical", "categorical", "jax", scans[0]),
        peer("scans, inverse CDF", "inverse", "jax", scans[1]),
        peer("PyTorch, multinomial", "multinomial", "torch"),
        peer("PyTorch, searchsorted", "searchsorted", "torch"),
        peer("PyTorch, torch.compile", "compiled", "torch", compiled),
        peer("floor in C", "floor", "cc", each_count=True),
    ]


PEERS = (*peers_at(10, (50.0, 25.0), 14.0), *peers_at(1000, (100.0, 4.0), 1.5))

if __name__ == "__main__":
    terminal.configure()
    compare(PEERS, OUT, "256 runs on a bandit", __doc__, seconds=2.0)
