"""Train runs in padded blocks of one fixed width, with one executable for each static part.

So the numbers of a run are the same to the last bit whether it is trained alone or among hundreds.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlkl import policies
from rlkl.exact import optimal_policy
from rlkl.training import final_grade
from rlkl.training.final_grade import FinalGrade
from rlkl.training.loop import ROWS, advance, start
from rlkl.training.observe import Row, prepare
from rlkl.training.programs import Program, static_part
from rlkl.training.spec import Run
from rlkl.training.state import State

WIDEST = 64  # runs in a block of small tables: the small operations of a step take as long for 64 runs as for one
# Entries in the tables of a block, of bandits with one prompt, with several, and of sequences: in larger blocks a run takes no
# less time, or more. A step of several prompts is mostly arithmetic, so that a run alone need not fill a large block.
BANDIT_CELLS, PROMPT_CELLS, CELLS = 8192, 4096, 1024
CACHED = 8  # static parts; each takes 30 to 100 MB, and 650 to 1,300 of the 65,530 mappings that Linux gives a process
COMPILER_OPTIONS = {"xla_cpu_prefer_vector_width": 512}  # of `advance` on CPUs; by default XLA uses half the width of AVX-512


class Trained(NamedTuple):
    """A finished run, as NumPy arrays.

    rows: the logged rows, on a leading axis. Where they are estimated, the last one is the final grade's, from more samples.
    best_in_family: the largest objective in a restricted family of policies that can be searched; else None.
    """

    rows: Row
    state: State
    optimum: optimal_policy.Optimum
    final: FinalGrade
    best_in_family: float | None


class Programs(NamedTuple):
    """The programs of one static part, for blocks of runs. Deleting them frees what they compiled."""

    start: Program
    prepare: Program
    advance: Program
    grade_last_state: Program
    best_in_family: Program


@functools.lru_cache(maxsize=CACHED)
def compiled_programs(_: tuple) -> Programs:
    """The programs of one static part, each compiled at its first call; the least recently used are evicted."""
    return Programs(
        Program(start, (0,)),
        Program(prepare, (0, 0)),
        Program(advance, (0, 0, 0, None), COMPILER_OPTIONS if jax.default_backend() == "cpu" else None),
        Program(final_grade.grade_last_state, (0, 0, 0)),
        Program(final_grade.best_in_family, (0,)),
    )


def programs(run: Run) -> Programs:
    """The programs of a run's static part; those of the CACHED most recently used static parts are cached."""
    return compiled_programs(static_part(run))


def width(run: Run) -> int:
    """Number of runs in a block; depends on static settings only."""
    automaton = run.task.automaton
    cells = automaton.horizon * automaton.decisions * automaton.vocabulary
    of_bandits = BANDIT_CELLS if automaton.prompts == 1 else PROMPT_CELLS
    largest = of_bandits if automaton.horizon == 1 else CELLS
    return 1 if policies.REGISTRY[run.settings.policy.name].network else max(1, min(WIDEST, largest // cells))


def stack(runs: Sequence[Run], size: int) -> Run:
    """Stack the leaves of runs into one block of `size` runs, repeating the last run to fill it."""
    padded = [*runs, *[runs[-1]] * (size - len(runs))]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *padded)


def blocks(runs: Sequence[Run]) -> Iterator[Sequence[Run]]:
    """Split runs that share a static part into blocks of its width."""
    size = width(runs[0])
    return (runs[first : first + size] for first in range(0, len(runs), size))


class BlockProgress(NamedTuple):
    """The progress of a block after a chunk of rows.

    step: the step of the schedule; the state of a run that diverged or stopped has a smaller one. rows: the logged rows so far,
    a chunk each, as NumPy arrays with leading axes of run and row.
    """

    step: int
    state: State
    rows: list[Row]

    def checkpoint(self, i: int) -> list[np.ndarray]:
        """The arrays from which run i can continue: the step, the leaves of its state, and the leaves of its rows."""
        rows = jax.tree.map(lambda *parts: np.concatenate([part[i] for part in parts]), *self.rows)
        return [
            np.asarray(self.step, np.int64),
            *(np.asarray(np.asarray(leaf)[i]) for leaf in jax.tree.leaves(self.state)),
            *jax.tree.leaves(rows),
        ]


def checkpoint_shapes(run: Run, step: int) -> list[jax.ShapeDtypeStruct] | None:
    """The shapes and dtypes of `BlockProgress.checkpoint` for a run at this step; None if no chunk of rows ends there."""
    steps, log_every = run.settings.steps, run.settings.log_every
    if not 0 < step <= steps or (step % (ROWS * log_every) and step != steps):
        return None
    block = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((width(run), *np.shape(leaf)), np.asarray(leaf).dtype), run)
    compiled = programs(run)
    state = compiled.start.shape(block)
    _, row = compiled.prepare.shape(block, state)
    row_count = 1 + -(-step // log_every)
    return [
        jax.ShapeDtypeStruct((), np.int64),
        *(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in jax.tree.leaves(state)),
        *(jax.ShapeDtypeStruct((row_count, *x.shape[1:]), x.dtype) for x in jax.tree.leaves(row)),
    ]


def restore(state: State, row: Row, checkpoints: Sequence[Sequence[np.ndarray]]) -> BlockProgress:
    """The progress of a block whose runs were stored at one step.

    state, row: the block's first ones, for their tree structures. checkpoints: `BlockProgress.checkpoint` of each run.
    """
    leaves, structure = jax.tree.flatten(state)
    padded = [*checkpoints, *[checkpoints[-1]] * (leaves[0].shape[0] - len(checkpoints))]
    restored = [jnp.asarray(np.stack([checkpoint[i] for checkpoint in padded])) for i in range(1, 1 + len(leaves))]
    columns = [np.stack(column) for column in zip(*(checkpoint[1 + len(leaves) :] for checkpoint in checkpoints), strict=True)]
    rows = jax.tree.unflatten(jax.tree.structure(row), columns)
    return BlockProgress(int(checkpoints[0][0]), jax.tree.unflatten(structure, restored), [rows])


def train_runs(runs: Sequence[Run], on_rows: Callable[[int, Row], None] | None = None) -> list[Trained]:
    """Train runs that share a static part. `on_rows(i, rows)` is called with the new rows of run i after each chunk.

    Needs x64 enabled. A run that stops being finite keeps its last finite policy, and its rows end there.
    """
    trained: list[Trained] = []
    for members in blocks(runs):
        trained += train_block(members, None if on_rows is None else _with_offset(on_rows, len(trained)))
    return trained


def _with_offset(on_rows: Callable[[int, Row], None], offset: int) -> Callable[[int, Row], None]:
    return lambda i, rows: on_rows(offset + i, rows)


def train_block(
    members: Sequence[Run],
    on_rows: Callable[[int, Row], None] | None = None,
    on_chunk: Callable[[BlockProgress], None] | None = None,
    checkpoints: Sequence[Sequence[np.ndarray]] | None = None,
) -> list[Trained]:
    """Train the runs of one block.

    on_rows: called as in `train_runs`. on_chunk: called with the block's progress after each chunk of rows. checkpoints:
    `BlockProgress.checkpoint` of each run, all at one step, to continue from; the result is the same to the last bit.
    """
    settings, count, compiled = members[0].settings, len(members), programs(members[0])
    block = stack(members, width(members[0]))
    state = compiled.start(block)
    optimum, row = compiled.prepare(block, state)
    if checkpoints:
        progress = restore(state, row, checkpoints)
    else:
        progress = BlockProgress(0, state, [on_host(row, lambda x: x[:count, None])])
    _report(on_rows, progress.rows[0], np.full(count, -1))
    while progress.step < settings.steps and _any_active(progress):
        state, rows = compiled.advance(block, optimum, progress.state, np.int32(progress.step))
        row_count = -(-(settings.steps - progress.step) // settings.log_every)
        new_rows = on_host(rows, lambda x, row_count=row_count: x[:count, :row_count])
        last_steps = np.asarray(progress.rows[-1].step)[:, -1]
        reached = min(settings.steps, progress.step + ROWS * settings.log_every)
        progress = BlockProgress(reached, state, [*progress.rows, new_rows])
        _report(on_rows, new_rows, last_steps)
        if on_chunk:
            on_chunk(progress)
    all_rows = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *progress.rows)
    grades = on_host(compiled.grade_last_state(block, optimum, progress.state))
    searchable = policies.REGISTRY[settings.policy.name].bounds is not None
    best = np.asarray(compiled.best_in_family(block)).tolist() if searchable else [None] * count
    states = on_host(progress.state)

    def result(i: int) -> Trained:
        rows, state, grade = (jax.tree.map(lambda x: x[i], tree) for tree in (all_rows, states, grades))
        state = state._replace(policy=jax.tree.map(jnp.asarray, state.policy))  # callers also evaluate the policy
        rows = _replace_last(_advanced(rows, -1), grade.last)
        return Trained(rows, state, grade.optimum, _drop_unknown_optimum(grade), best[i])

    return [result(i) for i in range(count)]


def _drop_unknown_optimum(grade: FinalGrade) -> FinalGrade:
    """The final grade without the details of the optimum, where the optimum is not known."""
    if not np.isnan(grade.optimum.objective):
        return grade
    return grade._replace(details={name: detail for name, detail in grade.details.items() if name != "optimum"})


def _any_active(progress: BlockProgress) -> bool:
    """Whether any run took the last step: a run that diverged, or stopped at `stop_kl`, did not."""
    return bool((progress.rows[-1].step[:, -1] == progress.step).any())


def _replace_last(rows: Row, last: Row | None) -> Row:
    """The rows with `last` in place of the last one, unless it is None."""
    if last is None:
        return rows
    return jax.tree.map(lambda column, value: np.concatenate([column[:-1], np.asarray(value)[None]]), rows, last)


def on_host(tree, select=lambda x: x):
    """The tree with NumPy arrays as leaves, each passed through `select`."""
    return jax.tree.map(lambda x: select(np.asarray(x)), tree)


def _report(on_rows, rows: Row, last_steps: np.ndarray) -> None:
    """Call `on_rows` for each run with its rows that are new since its last logged step."""
    for i in range(len(last_steps)) if on_rows else ():
        on_rows(i, _advanced(jax.tree.map(lambda x, i=i: x[i], rows), last_steps[i]))


def _advanced(rows: Row, last_step: int | np.integer) -> Row:
    """The rows of a run whose step is above the previous row's, or `last_step`: once it has diverged, there are none."""
    new = np.diff(rows.step, prepend=last_step) > 0
    return jax.tree.map(lambda x: x[new], rows)
