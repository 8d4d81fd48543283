"""The work in PyTorch, as a user would write it: `python -m experiments.speed.torch_peer --kind gru --mode eager`."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.speed import work
from experiments.speed.work import BATCH, BETA, GRADED, LENGTH, START, VOCABULARY

if TYPE_CHECKING:
    from torch import Tensor


def draw(policy: Any, uniforms: "Tensor") -> "Tensor":
    """A batch of sequences, a token at a time: one uniform number each, through the inverse of the cumulative sums."""
    import torch

    with torch.no_grad():
        carry = policy.begin(BATCH)
        tokens = [torch.full((BATCH,), START)]
        for position in range(LENGTH):
            cumulative, carry = policy.step(tokens[-1], position, carry)
            tokens.append(torch.searchsorted(cumulative, uniforms[position]).squeeze(-1).clamp_(max=VOCABULARY - 1))
        return torch.stack(tokens, 1)


def surrogate(policy: Any, sequences: "Tensor", log_reference: "Tensor", reward: "Tensor") -> "Tensor":
    """The loss of RLOO with the k1 penalty in the reward."""
    previous, tokens = sequences[:, :-1], sequences[:, 1:]
    log_pi = policy(previous, tokens)
    signal = -BETA * (log_pi.detach() - log_reference[previous, tokens])
    signal[:, -1] += reward[tokens[:, -1]]
    returns = signal.flip(1).cumsum(1).flip(1)
    advantage = (returns - returns.mean(0)) * (BATCH / (BATCH - 1))  # the return less the others' mean
    return -(advantage * log_pi).sum(1).mean()


def make(kind: str, mode: str, seed: int = 0) -> tuple[Callable[[], None], Callable[[], tuple[float, float]]]:
    """Functions of a new policy: one that takes a training step, and one that estimates its mean reward and its KL."""
    import torch

    from experiments.speed.torch_policies import POLICIES

    torch.manual_seed(seed)
    policy = POLICIES[kind]()
    optimizer = torch.optim.Adam(policy.parameters(), lr=work.LEARNING_RATE, betas=(0.9, 0.999), fused=True)
    log_reference = torch.tensor(work.reference(), dtype=torch.float32).log()
    reward = torch.tensor(work.reward(), dtype=torch.float32)
    loss = torch.compile(surrogate) if mode == "compiled" else surrogate
    unrolled = kind != "transformer"  # its sixteen positions take two minutes to compile, and are no faster then
    draw_batch = torch.compile(draw) if mode == "compiled" and unrolled else draw

    def update() -> None:
        value = loss(policy, draw_batch(policy, torch.rand(LENGTH, BATCH, 1)), log_reference, reward)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    def grade() -> tuple[float, float]:
        with torch.no_grad():
            sequences = torch.cat([draw_batch(policy, torch.rand(LENGTH, BATCH, 1)) for _ in range(GRADED)])
            previous, tokens = sequences[:, :-1], sequences[:, 1:]
            log_ratio = policy(previous, tokens) - log_reference[previous, tokens]
            return reward[tokens[:, -1]].mean().item(), log_ratio.sum(1).mean().item()

    return update, grade


def trained(kind: str, mode: str, seed: int, steps: int) -> tuple[float, float]:
    """Mean reward and KL of a run after its last step."""
    update, grade = make(kind, mode, seed)
    for _ in range(steps):
        update()
    return grade()


def main() -> None:
    """Print the updates per second, or how good `--runs` runs are after `--steps` steps."""
    options = work.arguments(__doc__, {"kind": ["tabular", "gru", "transformer"], "mode": ["eager", "compiled"]})
    import torch

    torch.set_num_threads(options.threads)
    if options.runs:
        grades = [trained(options.kind, options.mode, seed, options.steps) for seed in range(options.runs)]
        print(json.dumps(dict(zip(("reward", "kl"), zip(*grades, strict=True), strict=True))))
        return
    updates, elapsed = work.timed(make(options.kind, options.mode)[0], options.seconds)
    print(work.line("torch", options.kind, options.threads, updates, elapsed, ["torch"]))


if __name__ == "__main__":
    main()
