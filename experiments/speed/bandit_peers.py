"""Runs of `rloo` on one bandit, each way one might train them: `python -m experiments.speed.bandit_peers --peer inverse`.

An update is one step of one run: a batch of 64, leave-one-out with k1 in the reward, Adam in float32.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from experiments.speed import work
from experiments.speed.bandits import BATCH, BETA, RATE, RUNS, bandit, regret
from experiments.speed.floor import train_by_floor

Train = Callable[[], np.ndarray]  # trains all runs from their start, and returns their last logits, a row a run


def trainer(task: list[str], algorithm: str, count: int) -> Callable[[int], list[Any]]:
    """A function that trains that many runs for a number of steps, in a sweep's blocks, on all devices.

    task: its settings. The function returns the last states of each block.
    """
    import jax

    from rlkl.config.build import build
    from rlkl.config.compose import compose
    from rlkl.policies import base
    from rlkl.training import loop
    from rlkl.training.blocks import COMPILER_OPTIONS, blocks, stack, width

    descent = [f"algorithm={algorithm}", f"penalty.beta={BETA}", f"batch_size={BATCH}", f"optimizer.learning_rate={RATE}"]
    descent += ["penalty.estimator=k1", "penalty.placement=reward"] if algorithm == "rloo" else []
    with jax.enable_x64(True):
        first = build(compose([*task, *descent, "optimizer.schedule=constant"])).run
    seeds = [dataclasses.replace(first.settings, seed=np.full_like(first.settings.seed, seed)) for seed in range(count)]
    runs = [dataclasses.replace(first, settings=settings) for settings in seeds]

    def advance(run, state, number):
        return loop.steps(base.cast(run, run.settings.dtype), state, number)

    start_block = jax.jit(jax.vmap(loop.start))
    advance_block = jax.jit(jax.vmap(advance, in_axes=(0, 0, None)), compiler_options=COMPILER_OPTIONS)

    def train_block(members: list, device: Any, number: int) -> Any:
        with jax.default_device(device), jax.enable_x64(True):
            block = stack(members, width(members[0]))
            return jax.block_until_ready(advance_block(block, start_block(block), number))

    def train(number: int) -> list[Any]:
        with ThreadPoolExecutor(len(jax.local_devices())) as pool:
            return list(pool.map(train_block, blocks(runs), itertools.cycle(jax.local_devices()), itertools.repeat(number)))

    return train


def train_by_rlkl(arms: int, runs: int, steps: int, algorithm: str = "rloo") -> Train:
    """A function that trains as a sweep of rlkl does."""
    from rlkl.config import machine

    machine.configure()
    log_reference, reward = bandit(arms)
    values = [f"task.reward={reward.tolist()}", f"task.reference={np.exp(log_reference).tolist()}"]
    train = trainer(["task=bandit/custom", *values], algorithm, runs)
    return lambda: np.concatenate([np.asarray(states.policy.logits)[:, 0, 0] for states in train(steps)])[:runs]


def scan(arms: int, steps: int, inverse: bool) -> Callable[[Any], Any]:
    """A run as one jitted scan, from a key to its last logits; tokens by `categorical`, or by the inverse of the sums."""
    import jax
    import jax.numpy as jnp
    import optax

    log_reference, reward = (jnp.asarray(column, jnp.float32) for column in bandit(arms))
    optimizer = optax.adam(RATE)

    def draw(key, logits):
        if not inverse:
            return jax.random.categorical(key, logits, shape=(BATCH,))
        sums = jnp.cumsum(jax.nn.softmax(logits))
        return jnp.minimum(jnp.searchsorted(sums, jax.random.uniform(key, (BATCH,)) * sums[-1], side="right"), arms - 1)

    def loss(logits, tokens):
        log_pi = jax.nn.log_softmax(logits)[tokens]
        returns = reward[tokens] - BETA * jax.lax.stop_gradient(log_pi - log_reference[tokens])
        return -jnp.mean((returns - returns.mean()) * (BATCH / (BATCH - 1)) * log_pi)

    def step(carry, key):
        logits, slots = carry
        updates, slots = optimizer.update(jax.grad(loss)(logits, draw(key, logits)), slots)
        return (optax.apply_updates(logits, updates), slots), None

    @jax.jit
    def train(key):
        keys = jax.random.split(key, steps)
        return jax.lax.scan(step, (log_reference, optimizer.init(log_reference)), keys)[0][0]

    return train


def train_by_scans(arms: int, runs: int, steps: int, inverse: bool) -> Train:
    """A function that trains the runs one after the other."""
    import jax

    train_one = scan(arms, steps, inverse)
    return lambda: np.stack([np.asarray(train_one(jax.random.key(seed))) for seed in range(runs)])


def train_by_torch(arms: int, runs: int, steps: int, kind: str) -> Train:
    """A function that trains all runs in one batch of tensors.

    kind: tokens by `multinomial`, by `searchsorted`, or by the latter under `torch.compile` ("compiled").
    """
    import torch

    log_reference, reward = (torch.tensor(column, dtype=torch.float32) for column in bandit(arms))

    def loss(logits, uniform):
        log_probs = torch.log_softmax(logits, -1)
        with torch.no_grad():
            if uniform is None:
                tokens = torch.multinomial(log_probs.exp(), BATCH, replacement=True)
            else:
                sums = log_probs.exp().cumsum(-1)
                tokens = torch.searchsorted(sums, uniform * sums[:, -1:], right=True).clamp_(max=arms - 1)
        log_pi = log_probs.gather(1, tokens)
        with torch.no_grad():
            returns = reward[tokens] - BETA * (log_pi - log_reference[tokens])
            advantages = (returns - returns.mean(1, keepdim=True)) * (BATCH / (BATCH - 1))
        return -(advantages * log_pi).mean(1).sum()

    loss_function = torch.compile(loss) if kind == "compiled" else loss

    def train() -> np.ndarray:
        logits = log_reference.repeat(runs, 1).requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=RATE, fused=True)
        for _ in range(steps):
            value = loss_function(logits, None if kind == "multinomial" else torch.rand(runs, BATCH))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return logits.detach().numpy()

    return train


class Peer(NamedTuple):
    """A way to train: (arms, runs, steps) -> what trains; the runs and steps that are timed at once, by the number of arms."""

    build: Callable[[int, int, int], Train]
    runs: int = RUNS
    steps: Callable[[int], int] = lambda arms: max(200, 100_000 // arms)


def few_steps(arms: int) -> int:
    """The number of steps that are timed at once of a peer that takes them one at a time from Python."""
    return 50


PEERS = {
    "rlkl": Peer(train_by_rlkl),
    "exact": Peer(lambda arms, runs, steps: train_by_rlkl(arms, runs, steps, "exact")),
    "categorical": Peer(lambda arms, runs, steps: train_by_scans(arms, runs, steps, inverse=False), runs=2),
    "inverse": Peer(lambda arms, runs, steps: train_by_scans(arms, runs, steps, inverse=True), runs=2),
    "multinomial": Peer(lambda arms, runs, steps: train_by_torch(arms, runs, steps, "multinomial"), steps=few_steps),
    "searchsorted": Peer(lambda arms, runs, steps: train_by_torch(arms, runs, steps, "searchsorted"), steps=few_steps),
    "compiled": Peer(lambda arms, runs, steps: train_by_torch(arms, runs, steps, "compiled"), steps=few_steps),
    "floor": Peer(train_by_floor, steps=lambda arms: 400_000 // arms),
}


def updates_per_second(peer: Peer, arms: int, seconds: float) -> float:
    """The updates per second of a peer, once compiled."""
    steps = peer.steps(arms)
    train = peer.build(arms, peer.runs, steps)
    train()
    rounds, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        train()
        rounds += 1
    return rounds * peer.runs * steps / elapsed


def main() -> None:
    """Print the updates per second, or the regret of `--runs` runs after `--steps` steps."""
    options = work.arguments(__doc__, {"peer": list(PEERS)}, arms=10)
    peer = PEERS[options.peer]
    if options.runs:
        printed = {"regret": regret(peer.build(options.arms, options.runs, options.steps)()).tolist()}
    else:
        printed = {"updates_per_second": updates_per_second(peer, options.arms, options.seconds)}
    print(json.dumps({"peer": options.peer, "arms": options.arms, **printed}))


if __name__ == "__main__":
    main()
