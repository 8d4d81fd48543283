"""256 runs of `rloo` on one bandit, each way one might train them: `python -m experiments.speed.bandit_peers --peer inverse`.

An update is one step of one run: a batch of 64, leave-one-out with k1 in the reward, Adam in float32.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from experiments.speed import work

RUNS, BATCH, BETA, RATE = 256, 64, 0.1, 0.1
SEQUENTIAL = 2  # runs that are measured of those that go one after the other: all cost the same


def steps(arms: int) -> int:
    """How many are measured at once."""
    return max(200, 100_000 // arms)


def bandit(arms: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-reference and reward of each arm."""
    draw = np.random.default_rng(0)
    return np.log(draw.dirichlet(np.ones(arms))), draw.normal(size=arms)


def trainer(of: tuple[np.ndarray, np.ndarray], algorithm: str, count: int) -> Callable[[int], None]:
    """What takes a number of steps of that many runs: those of a sweep's training, in its blocks, on all devices."""
    import jax

    from rlkl.config.build import build
    from rlkl.config.compose import compose
    from rlkl.policies import base
    from rlkl.training import loop
    from rlkl.training.blocks import COMPILER_OPTIONS, blocks, stack, width

    log_reference, reward = of
    task = [f"task.reward={reward.tolist()}", f"task.reference={np.exp(log_reference).tolist()}"]
    descent = [f"algorithm={algorithm}", f"penalty.beta={BETA}", f"batch_size={BATCH}", f"optimizer.learning_rate={RATE}"]
    descent += ["penalty.estimator=k1", "penalty.placement=reward"] if algorithm == "rloo" else []
    with jax.enable_x64(True):
        first = build(compose(["task=bandit/custom", *task, *descent, "optimizer.schedule=constant"])).run
    seeds = [dataclasses.replace(first.settings, seed=np.full_like(first.settings.seed, seed)) for seed in range(count)]
    runs = [dataclasses.replace(first, settings=chosen) for chosen in seeds]

    def taken(run, state, number):
        low = base.cast(run, run.settings.dtype)
        return loop.steps(low, state, number)

    start = jax.jit(jax.vmap(loop.start))
    take = jax.jit(jax.vmap(taken, in_axes=(0, 0, None)), compiler_options=COMPILER_OPTIONS)

    def over(members: list, device: Any, number: int) -> None:
        with jax.default_device(device), jax.enable_x64(True):
            block = stack(members, width(members[0]))
            jax.block_until_ready(take(block, start(block), number))

    def go(number: int) -> None:
        with ThreadPoolExecutor(len(jax.local_devices())) as pool:
            list(pool.map(over, blocks(runs), itertools.cycle(jax.local_devices()), itertools.repeat(number)))

    return go


def rlkl(arms: int, algorithm: str = "rloo") -> Callable[[], int]:
    """rlkl's own."""
    go = trainer(bandit(arms), algorithm, RUNS)

    def once() -> int:
        go(steps(arms))
        return RUNS * steps(arms)

    return once


def scan(arms: int, inverse: bool) -> Callable[[Any], Any]:
    """A run as one jitted scan, from a key to its last logits; tokens by `categorical`, or by the inverse of the sums."""
    import jax
    import jax.numpy as jnp
    import optax

    log_reference, reward = (jnp.asarray(column, jnp.float32) for column in bandit(arms))
    optimizer = optax.adam(RATE)

    def drawn(key, logits):
        if not inverse:
            return jax.random.categorical(key, logits, shape=(BATCH,))
        sums = jnp.cumsum(jax.nn.softmax(logits))
        return jnp.minimum(jnp.searchsorted(sums, jax.random.uniform(key, (BATCH,)) * sums[-1], side="right"), arms - 1)

    def loss(logits, tokens):
        log_pi = jax.nn.log_softmax(logits)[tokens]
        returns = reward[tokens] - BETA * jax.lax.stop_gradient(log_pi - log_reference[tokens])
        return -jnp.mean((returns - returns.mean()) * (BATCH / (BATCH - 1)) * log_pi)

    def step(held, key):
        logits, slots = held
        updates, slots = optimizer.update(jax.grad(loss)(logits, drawn(key, logits)), slots)
        return (optax.apply_updates(logits, updates), slots), None

    @jax.jit
    def train(key):
        keys = jax.random.split(key, steps(arms))
        return jax.lax.scan(step, (log_reference, optimizer.init(log_reference)), keys)[0][0]

    return train


def scans(arms: int, inverse: bool) -> Callable[[], int]:
    """Runs one after the other."""
    import jax

    train = scan(arms, inverse)

    def go() -> int:
        for seed in range(SEQUENTIAL):
            train(jax.random.key(seed)).block_until_ready()
        return SEQUENTIAL * steps(arms)

    return go


def torch_batched(arms: int, kind: str) -> Callable[[], int]:
    """All runs in one batch of tensors; tokens by `multinomial`, by `searchsorted`, or that compiled by `torch.compile`."""
    import torch

    log_reference, reward = (torch.tensor(column, dtype=torch.float32) for column in bandit(arms))
    logits = log_reference.repeat(RUNS, 1).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=RATE, fused=True)

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

    made = torch.compile(loss) if kind == "compiled" else loss

    def go() -> int:
        for _ in range(10):
            value = made(logits, None if kind == "multinomial" else torch.rand(RUNS, BATCH))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return 10 * RUNS

    return go


PEERS: dict[str, Callable[[int], Callable[[], int]]] = {
    "rlkl": rlkl,
    "exact": lambda arms: rlkl(arms, "exact"),
    "categorical": lambda arms: scans(arms, inverse=False),
    "inverse": lambda arms: scans(arms, inverse=True),
    "multinomial": lambda arms: torch_batched(arms, "multinomial"),
    "searchsorted": lambda arms: torch_batched(arms, "searchsorted"),
    "compiled": lambda arms: torch_batched(arms, "compiled"),
}


def main() -> None:
    """Print the updates per second."""
    chosen = work.arguments(__doc__, "peer", list(PEERS), arms=10)
    if chosen.peer in ("rlkl", "exact"):
        from rlkl.config import machine

        machine.configure()
    go = PEERS[chosen.peer](chosen.arms)
    go()
    updates, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < chosen.seconds:
        updates += go()
    print(json.dumps({"peer": chosen.peer, "arms": chosen.arms, "updates_per_second": updates / elapsed}))


if __name__ == "__main__":
    main()
