"""`python -m experiments.speed.gpu`: results on a GPU beside those on this machine's CPU, and times; within six minutes.

It ends at once where jax sees no GPU. Exit status 1: a result differs by more than TOLERANCE.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rlkl.config import machine

OUT = Path("paper") / "speed" / "gpu.csv"
TOLERANCE = 1e-5  # of relative errors in float64
BUDGET = 300.0  # seconds after which no new part starts
BANDIT = ["task=bandit/zipf", "algorithm=rloo"]
TRANSFORMER = ["task=sequence/grammar", "policy=transformer", "algorithm=rloo", "policy.init=random"]


class Sizes(NamedTuple):
    """How much is computed: steps of the checks, runs and steps of the sweep, batch and steps of the transformer."""

    checked: int = 50
    runs: int = 4096
    steps: int = 1000
    batch: int = 1024
    transformer_steps: int = 20


class Part(NamedTuple):
    """A part of the benchmark: its name, and what measures it on some devices. checked: whether results are compared."""

    name: str
    measure: Callable[[list], Any]
    checked: bool


def trained(overrides: list[str], count: int, steps: int, devices: list) -> tuple[list, float]:
    """The policies' parameters after these steps of `count` runs, in blocks on these devices, and the seconds they took."""
    import jax

    from rlkl.config.build import build
    from rlkl.config.compose import compose
    from rlkl.policies import base
    from rlkl.training import blocks, loop

    first = build(compose(overrides)).run
    seeds = [dataclasses.replace(first.settings, seed=np.full_like(first.settings.seed, seed)) for seed in range(count)]
    members = list(blocks.blocks([dataclasses.replace(first, settings=settings) for settings in seeds]))

    def steps_of(run, state, number):
        return loop.steps(base.cast(run, run.settings.dtype), state, number)

    options = blocks.COMPILER_OPTIONS if devices[0].platform == "cpu" else None
    start, take = jax.jit(jax.vmap(loop.start)), jax.jit(jax.vmap(steps_of, in_axes=(0, 0, None)), compiler_options=options)

    def train(runs, device, number) -> list:
        with jax.default_device(device), jax.enable_x64(True):
            block = blocks.stack(runs, blocks.width(first))
            return jax.device_get(jax.tree.leaves(take(block, start(block), np.int32(number)).policy))

    with ThreadPoolExecutor(len(devices)) as pool:
        for number in (1, steps):  # the first time compiles
            started = time.perf_counter()
            leaves = list(pool.map(train, members, itertools.cycle(devices), itertools.repeat(number)))
            seconds = time.perf_counter() - started
    return leaves, seconds


def parts(sizes: Sizes) -> list[Part]:
    """The checks, and then what is timed."""

    def check(overrides, steps):
        return lambda devices: trained(overrides, 1, steps, devices[:1])[0]

    def rate(overrides, count, steps):
        return lambda devices: count * steps / trained(overrides, count, steps, devices)[1]

    plain = ["dtype=float64", "optimizer=sgd"]  # whose step is in proportion to the gradient
    wide = [*TRANSFORMER, f"batch_size={sizes.batch}"]
    return [
        Part("bandit, exact gradients", check(["task=bandit/zipf", "algorithm=exact"], sizes.checked), True),
        Part("bandit, the same draws", check([*BANDIT, "dtype=float64"], sizes.checked), True),
        Part("transformer, a gradient", check([*TRANSFORMER, *plain], 1), True),
        Part(f"bandit, {sizes.runs} runs", rate(BANDIT, sizes.runs, sizes.steps), False),
        Part(f"transformer, batch {sizes.batch}", rate(wide, 1, sizes.transformer_steps), False),
        Part(f"the same, bfloat16, batch {sizes.batch}", rate([*wide, "dtype=bfloat16"], 1, sizes.transformer_steps), False),
    ]


def error(ours: list, theirs: list) -> float:
    """The largest difference of two lists of arrays, relative to the largest entry of each array; NaN counts as infinite."""
    pairs = zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True)
    numbers = [(np.asarray(a), np.asarray(b)) for a, b in pairs if np.issubdtype(np.asarray(a).dtype, np.floating)]
    errors = [np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-300) for a, b in numbers]
    return float(np.nan_to_num(max(errors), nan=np.inf, posinf=np.inf))


def benchmark(accelerator: list, cpu: list, sizes: Sizes, out: Path, budget: float = BUDGET) -> bool:
    """Measure each part on both kinds of devices, and write the rows as they come; returns whether all results agree."""
    rows, agree, started = [], True, time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in parts(sizes):
        if time.monotonic() - started > budget:
            print(f"{part.name}: left out, {budget:g} seconds are over", flush=True)
            continue
        ours, theirs = part.measure(accelerator), part.measure(cpu)
        row = {"part": part.name, "device": accelerator[0].device_kind}
        if part.checked:
            row["relative_error"] = error(ours, theirs)
            agree = agree and row["relative_error"] <= TOLERANCE
            print(f"{part.name}: relative error {row['relative_error']:.2g}", flush=True)
        else:
            row |= {"updates_per_second": ours, "on_cpu": theirs, "ratio": ours / theirs}
            print(f"{part.name}: {ours:,.1f} updates a second, {theirs:,.1f} on the CPU", flush=True)
        rows.append(row)
        pd.DataFrame(rows).to_csv(out, index=False, lineterminator="\n")
    return agree


def main() -> int:
    """Measure on jax's GPUs; returns the exit status."""
    machine.configure()
    import jax

    try:
        gpus = jax.devices("gpu")
    except RuntimeError:
        print("jax sees no GPU: nothing is measured")
        return 0
    return 0 if benchmark(gpus, jax.devices("cpu"), Sizes(), OUT) else 1


if __name__ == "__main__":
    sys.exit(main())
