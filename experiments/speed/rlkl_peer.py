"""The work in rlkl, as its `train` does it: `python -m experiments.speed.rlkl_peer --kind gru --threads 1`."""

import dataclasses
import json
import tempfile
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.speed import work
from experiments.speed.work import BATCH, BETA, HEADS, LAYERS, LEARNING_RATE, LENGTH, START, VOCABULARY, WIDTH

AT_ONCE = 0.2  # seconds of steps between two looks at the clock
NETWORK = ["policy.init=uniform", f"policy.width={WIDTH}"]
POLICIES = {
    "tabular": ["policy=ngram", "policy.order=1", "policy.init=uniform"],
    "gru": ["policy=gru", *NETWORK],
    "transformer": ["policy=transformer", *NETWORK, f"policy.heads={HEADS}"],
}


def automaton(length: int, reference: np.ndarray) -> dict:
    """The task as a file of `automaton/custom` says it: a state for each token that was read last, and the start."""
    return {
        "vocabulary": [str(token) for token in range(VOCABULARY)],
        "horizon": length,
        "start": START,
        "next_state": [list(range(VOCABULARY))] * (VOCABULARY + 1),
        "reference": reference.tolist(),
        "reward": [*work.reward().tolist(), 0.0],
    }


def overrides(kind: str, layers: int) -> list[str]:
    """The policy and the training, as settings of the command `rlkl`."""
    adam = ["optimizer=adam", f"optimizer.learning_rate={LEARNING_RATE}", "optimizer.b2=0.999", "optimizer.schedule=constant"]
    training = ["algorithm=rloo", f"penalty.beta={BETA}", "penalty.estimator=k1", f"batch_size={BATCH}", "dtype=float32"]
    return [*POLICIES[kind], *([f"policy.layers={layers}"] if kind == "transformer" else []), *training, *adam]


def build_run(
    kind: str, length: int = LENGTH, layers: int = LAYERS, *settings: str, reference: np.ndarray | None = None
) -> Any:
    """The run of one kind of policy, as rlkl builds it from its config. Sets jax up as the command does."""
    import jax

    from rlkl.config.build import build
    from rlkl.config.compose import compose

    jax.config.update("jax_enable_x64", True)  # as the command does; the steps are in float32
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bigram.json"
        task = automaton(length, work.reference() if reference is None else reference)
        path.write_text(json.dumps(task), encoding="utf-8")
        config = compose(["task=automaton/custom", f"task.path={path}", *overrides(kind, layers), *settings])
        return jax.tree.map(np.asarray, build(config).run)


def trainer(run: Any) -> tuple[Any, Callable[[Any, Any, int], Any]]:
    """The first state of a run, and the function that trains it: (run, state, number of steps) -> state."""
    import jax

    from rlkl.policies import base
    from rlkl.training import loop

    @jax.jit
    def advance(run, state, count):
        return loop.steps(base.cast(run, run.settings.dtype), state, count)

    return jax.jit(loop.start)(run), advance


def make(run: Any) -> Callable[[int], None]:
    """A function that takes a number of steps, each from where the last one ended."""
    import jax

    state, advance = trainer(run)

    def train(count: int) -> None:
        nonlocal state
        state = jax.block_until_ready(advance(run, state, count))

    return train


def grades(run: Any, runs: int, steps: int) -> dict[str, list[float]]:
    """Mean reward and KL of so many runs after their last step, as rlkl grades them: exactly, or by samples."""
    import jax

    from rlkl.training import loop, observe

    result: dict[str, list[float]] = {"reward": [], "kl": []}
    _, advance = trainer(run)
    start, prepare, graded = jax.jit(loop.start), jax.jit(observe.prepare), jax.jit(observe.observe)
    for seed in range(runs):
        seeded = dataclasses.replace(
            run, settings=dataclasses.replace(run.settings, seed=np.full_like(run.settings.seed, seed))
        )
        state = start(seeded)
        optimum, _ = prepare(seeded, state)
        values = graded(seeded, optimum, advance(seeded, state, steps)).report.values
        result["reward"].append(float(values.reward))
        result["kl"].append(float(values.kl_pi_ref))
    return result


def steps_in(train: Callable[[int], None], seconds: float) -> int:
    """About how many steps these seconds hold, once compiled."""
    train(1)
    count = 1
    while (elapsed := timeit.timeit(partial(train, count), number=1)) < seconds / 2:
        count *= 2
    return max(1, round(count * seconds / elapsed))


def main() -> None:
    """Print the updates per second, or how good `--runs` runs are after `--steps` steps."""
    options = work.arguments(__doc__, {"kind": list(POLICIES), "task": ["bigram", "trl"]})
    if options.task == "trl":  # TRL's reference is the policy that it starts from, and a sequence has one advantage
        uniform = np.full((VOCABULARY + 1, VOCABULARY), 1 / VOCABULARY)
        run = build_run(options.kind, LENGTH, LAYERS, "penalty.level=sequence", reference=uniform)
    else:
        run = build_run(options.kind)
    if options.runs:
        print(json.dumps(grades(run, options.runs, options.steps)))
        return
    train = make(run)
    count = steps_in(train, AT_ONCE)
    looks, elapsed = work.timed(lambda: train(count), options.seconds)
    print(work.line("rlkl", options.kind, options.threads, looks * count, elapsed, ["rlkl", "jax"]))


if __name__ == "__main__":
    main()
