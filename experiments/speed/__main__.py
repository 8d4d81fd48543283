"""`python -m experiments.speed`: sequences in rlkl beside PyTorch (eager, `torch.compile`) and TRL; medians of ratios."""

from pathlib import Path

from experiments.speed import work
from experiments.speed.turns import RLKL, Peer, compare
from rlkl.config import terminal

OUT = Path("paper") / "speed" / "speed.csv"


def peers_of(kind: str, wanted: float) -> list[Peer]:
    """rlkl and PyTorch with one kind of policy, and the ratio wanted."""
    command = ("torch_peer", "--kind", kind, "--mode")
    return [
        Peer(kind, RLKL, "jax", ("rlkl_peer", "--kind", kind)),
        Peer(kind, "PyTorch, eager", "torch", (*command, "eager"), wanted),
        Peer(kind, "PyTorch, torch.compile", "torch", (*command, "compiled"), wanted),
    ]


PEERS = (
    *peers_of("tabular", 20.0),
    *peers_of("gru", 3.0),
    *peers_of("transformer", 2.0),
    *(Peer("transformer", f"TRL, {name.upper()}", "trl", ("trl_peer", "--algorithm", name), 8.0) for name in ("grpo", "rloo")),
)

if __name__ == "__main__":
    terminal.configure()
    compare(PEERS, OUT, f"V={work.VOCABULARY}, T={work.LENGTH}, B={work.BATCH}", __doc__, seconds=3.0)
