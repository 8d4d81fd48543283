"""The work in eager PyTorch, as a user would write it: `python -m experiments.speed.torch_peer --kind gru --threads 1`."""

from typing import TYPE_CHECKING, Any

from experiments.speed import work
from experiments.speed.work import BATCH, BETA, LENGTH, START, VOCABULARY

if TYPE_CHECKING:
    from torch import Tensor


def draw(policy: Any) -> "Tensor":
    """A batch of sequences, a token at a time: one uniform number each, through the inverse of the cumulative sums."""
    import torch

    with torch.no_grad():
        uniforms, carry = torch.rand(LENGTH, BATCH, 1), policy.begin(BATCH)
        tokens = [torch.full((BATCH,), START)]
        for position in range(LENGTH):
            cumulative, carry = policy.step(tokens[-1], position, carry)
            tokens.append(torch.searchsorted(cumulative, uniforms[position]).squeeze(-1).clamp_(max=VOCABULARY - 1))
        return torch.stack(tokens, 1)


def update(policy: Any, optimizer: Any, log_reference: "Tensor", reward: "Tensor") -> "Tensor":
    """One RLOO step with the k1 penalty in the reward; returns each sequence's reward, the penalty left out."""
    sequences = draw(policy)
    previous, tokens = sequences[:, :-1], sequences[:, 1:]
    log_pi = policy(previous, tokens)
    earned = reward[tokens[:, -1]]
    signal = -BETA * (log_pi.detach() - log_reference[previous, tokens])
    signal[:, -1] += earned
    returns = signal.flip(1).cumsum(1).flip(1)
    advantage = (returns - returns.mean(0)) * (BATCH / (BATCH - 1))  # the return less the others' mean
    loss = -(advantage * log_pi).sum(1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return earned


def make(kind: str, seed: int = 0) -> tuple[Any, Any, "Tensor", "Tensor"]:
    """A new policy, its optimizer, the log-reference and the reward: what `update` takes."""
    import torch

    from experiments.speed.torch_policies import POLICIES

    torch.manual_seed(seed)
    policy = POLICIES[kind]()
    optimizer = torch.optim.Adam(policy.parameters(), lr=work.LEARNING_RATE, betas=(0.9, 0.999), fused=True)
    log_reference = torch.tensor(work.reference(), dtype=torch.float32).log()
    return policy, optimizer, log_reference, torch.tensor(work.reward(), dtype=torch.float32)


def main() -> None:
    """Print the updates per second."""
    chosen = work.arguments(__doc__, "kind", ["tabular", "gru", "transformer"])
    import torch

    torch.set_num_threads(chosen.threads)
    parts = make(chosen.kind)
    updates, elapsed = work.timed(lambda: update(*parts), chosen.seconds)
    print(work.line("torch", chosen.kind, chosen.threads, updates, elapsed, ["torch"]))


if __name__ == "__main__":
    main()
