"""The work in rlkl, as its `train` does it: `python -m experiments.speed.rlkl_peer --kind gru --threads 1`."""

import json
import tempfile
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.speed import work
from experiments.speed.work import BATCH, BETA, HEADS, LAYERS, LEARNING_RATE, LENGTH, START, VOCABULARY, WIDTH

AT_ONCE = 0.2  # seconds of steps between two looks at the clock
POLICIES = {
    "tabular": ["policy=ngram", "policy.order=1", "policy.init=uniform"],
    "gru": ["policy=gru", "policy.init=random", f"policy.width={WIDTH}"],
    "transformer": [
        "policy=transformer", "policy.init=random", f"policy.width={WIDTH}", f"policy.layers={LAYERS}", f"policy.heads={HEADS}",
    ],
}  # fmt: skip


def automaton(length: int = LENGTH) -> dict:
    """The task as a file of `automaton/custom` says it: a state for each token that was read last, and the start."""
    return {
        "vocabulary": [str(token) for token in range(VOCABULARY)],
        "horizon": length,
        "start": START,
        "next_state": [list(range(VOCABULARY))] * (VOCABULARY + 1),
        "reference": work.reference().tolist(),
        "reward": [*work.reward().tolist(), 0.0],
    }


def overrides(kind: str, path: Path) -> list[str]:
    """What one would give the command `rlkl`."""
    adam = ["optimizer=adam", f"optimizer.learning_rate={LEARNING_RATE}", "optimizer.b2=0.999", "optimizer.schedule=constant"]
    training = ["algorithm=rloo", f"penalty.beta={BETA}", "penalty.estimator=k1", f"batch_size={BATCH}", "dtype=float32"]
    return ["task=automaton/custom", f"task.path={path}", *POLICIES[kind], *training, *adam]


def make(kind: str, length: int = LENGTH) -> Callable[[int], None]:
    """What takes a number of steps, each from where the last one ended."""
    import jax
    import numpy as np

    from rlkl.config.build import build
    from rlkl.config.compose import compose
    from rlkl.policies import base
    from rlkl.training import loop

    jax.config.update("jax_enable_x64", True)  # as the command does; the steps are in float32
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bigram.json"
        path.write_text(json.dumps(automaton(length)), encoding="utf-8")
        run = jax.tree.map(np.asarray, build(compose(overrides(kind, path))).run)

    @jax.jit
    def advance(run, state, count):
        low = base.cast(run, run.settings.dtype)
        return loop.steps(low, state, count)

    state = jax.jit(loop.start)(run)

    def take(count: int) -> None:
        nonlocal state
        state = jax.block_until_ready(advance(run, state, count))

    return take


def steps_in(take: Callable[[int], None], seconds: float) -> int:
    """About how many steps these seconds hold, once compiled."""
    take(1)
    count = 1
    while (taken := timeit.timeit(partial(take, count), number=1)) < seconds / 2:
        count *= 2
    return max(1, round(count * seconds / taken))


def main() -> None:
    """Print the updates per second."""
    chosen = work.arguments(__doc__, "kind", list(POLICIES))
    take = make(chosen.kind)
    count = steps_in(take, AT_ONCE)
    looks, elapsed = work.timed(lambda: take(count), chosen.seconds)
    print(work.line("rlkl", chosen.kind, chosen.threads, looks * count, elapsed, ["rlkl", "jax"]))


if __name__ == "__main__":
    main()
