"""Runs execute in blocks of one fixed width, padded, through one executable a static part: so a run's numbers are the
same to the last bit whether it is alone or among hundreds.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlkl import policies
from rlkl.exact import optimal_policy
from rlkl.training import final_grade
from rlkl.training.final_grade import FinalGrade
from rlkl.training.loop import ROWS, Row, State, advance, prepare, start
from rlkl.training.spec import Run

WIDEST = 64  # runs in a block of small tables: a step's many small operations cost as much for 64 runs as for one
KEPT = 8  # static parts; each takes 30 to 100 MB, and 650 to 1,300 of the 65,530 mappings that Linux gives a process
COMPILED = {"xla_cpu_prefer_vector_width": 512}  # training; XLA would take half of what a CPU with AVX-512 has


class Trained(NamedTuple):
    """A finished run, on the host: its logged rows (leaves with a leading axis), last state, optimum and final grade.

    Where the last row was estimated, the final grade's row, from more samples, stands in its place.

    best_in_family: the largest objective of a restricted family that can be searched, else None.
    """

    rows: Row
    state: State
    optimum: optimal_policy.Optimum
    final: FinalGrade
    best_in_family: float | None


def _mapped(one: Callable, in_axes: tuple, options: dict[str, Any] | None = None) -> Callable:
    """`one` over a block: vmapped, but for a block of one run, whose matrices a batch axis would slow down."""

    def over(*arguments):
        size = jax.tree.leaves(arguments[0])[0].shape[0]
        if size > 1:
            return jax.vmap(one, in_axes=in_axes)(*arguments)
        single = (jax.tree.map(lambda x: x[0], a) if axis == 0 else a for a, axis in zip(arguments, in_axes, strict=True))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], one(*single))

    return jax.jit(over, compiler_options=options)


class Programs(NamedTuple):
    """The jitted functions of one static part, over blocks; what they compile goes with them."""

    start: Callable
    prepare: Callable
    advance: Callable
    close: Callable
    best_in_family: Callable


@functools.lru_cache(maxsize=KEPT)
def compiled_programs(_: tuple) -> Programs:
    """The programs of one static part, not compiled yet; the cache lets go of those used longest ago."""
    return Programs(
        _mapped(start, (0,)),
        _mapped(prepare, (0, 0)),
        _mapped(advance, (0, 0, 0, None), COMPILED),
        _mapped(final_grade.grade_last_state, (0, 0, 0)),
        _mapped(final_grade.best_in_family, (0,)),
    )


def static_part(tree: Any) -> tuple:
    """The static part of a tree, for which a program is compiled: its structure, and its leaves' shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    dtypes = (leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype for leaf in leaves)
    return structure, tuple(zip(map(np.shape, leaves), dtypes, strict=True))


def programs(run: Run) -> Programs:
    """The programs of a run's static part; those of the KEPT static parts that were asked for last are kept."""
    return compiled_programs(static_part(run))


def width(run: Run) -> int:
    """Number of runs in a block; depends on static settings only."""
    automaton = run.task.automaton
    cells = automaton.horizon * automaton.decisions * automaton.vocabulary
    return 1 if policies.REGISTRY[run.settings.policy.name].network else max(1, min(WIDEST, 1024 // cells))


def stack(runs: Sequence[Run], size: int) -> Run:
    """One block: the runs' leaves side by side, the last run repeated to fill it."""
    filled = [*runs, *[runs[-1]] * (size - len(runs))]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *filled)


def blocks(runs: Sequence[Run]) -> Iterator[Sequence[Run]]:
    """Runs of one static part, in blocks of its width."""
    size = width(runs[0])
    return (runs[first : first + size] for first in range(0, len(runs), size))


class BlockProgress(NamedTuple):
    """The progress of a block after a chunk: the step of its schedule, its states, and its rows so far (on the host, leaves
    with leading axes of run and row)."""

    step: int
    state: State
    rows: list[Row]

    def of(self, i: int) -> list[np.ndarray]:
        """Run i's part of it, as arrays to be kept."""
        rows = jax.tree.map(lambda *parts: np.concatenate([part[i] for part in parts]), *self.rows)
        return [
            np.asarray(self.step, np.int64),
            *(np.asarray(_data(leaf)[i]) for leaf in jax.tree.leaves(self.state)),
            *jax.tree.leaves(rows),
        ]


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf) -> np.ndarray:
    """A leaf on the host; a random key as its numbers."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def like_kept(run: Run, step: int) -> list[jax.ShapeDtypeStruct] | None:
    """What `Standing.of` gives of a run that stands at this step, as shapes and dtypes; None where no chunk ends there."""
    steps, log_every = run.settings.steps, run.settings.log_every
    if not 0 < step <= steps or (step % (ROWS * log_every) and step != steps):
        return None
    block = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((width(run), *np.shape(leaf)), np.asarray(leaf).dtype), run)
    compiled = programs(run)
    state = jax.eval_shape(compiled.start, block)
    _, row = jax.eval_shape(compiled.prepare, block, state)
    numbers = jax.eval_shape(
        lambda leaves: [jax.random.key_data(x) if _is_key(x) else x for x in leaves], jax.tree.leaves(state)
    )
    logged = 1 + -(-step // log_every)
    return [
        jax.ShapeDtypeStruct((), np.int64),
        *(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in numbers),
        *(jax.ShapeDtypeStruct((logged, *x.shape[1:]), x.dtype) for x in jax.tree.leaves(row)),
    ]


def restored(state: State, row: Row, kept: Sequence[Sequence[np.ndarray]]) -> BlockProgress:
    """The standing of a block whose runs were kept at one step; `state` and `row`, of its start, say what is what."""
    like, structure = jax.tree.flatten(state)
    size, columns = like[0].shape[0], []
    for i, leaf in enumerate(like, start=1):
        column = np.stack([arrays[i] for arrays in [*kept, *[kept[-1]] * (size - len(kept))]])
        columns.append(jax.random.wrap_key_data(jnp.asarray(column)) if _is_key(leaf) else jnp.asarray(column))
    rows = [np.stack(column) for column in zip(*(arrays[1 + len(like) :] for arrays in kept), strict=True)]
    table = jax.tree.unflatten(jax.tree.structure(row), rows)
    return BlockProgress(int(kept[0][0]), jax.tree.unflatten(structure, columns), [table])


def train_runs(runs: Sequence[Run], on_rows: Callable[[int, Row], None] | None = None) -> list[Trained]:
    """Train runs that share their static part. `on_rows(i, rows)` hears of run i's new rows after every chunk.

    Needs x64 enabled. A run that stops being finite keeps its last finite policy; its rows end there.
    """
    done: list[Trained] = []
    for members in blocks(runs):
        done += train_block(members, None if on_rows is None else _from(len(done), on_rows))
    return done


def _from(offset: int, on_rows: Callable[[int, Row], None]) -> Callable[[int, Row], None]:
    return lambda i, rows: on_rows(offset + i, rows)


def train_block(
    members: Sequence[Run],
    on_rows: Callable[[int, Row], None] | None = None,
    on_chunk: Callable[[BlockProgress], None] | None = None,
    kept: Sequence[Sequence[np.ndarray]] | None = None,
) -> list[Trained]:
    """Train one block. `on_chunk` hears where it stands after every chunk; kept: what `Standing.of` gave of each run at one
    step, to go on from there, to the same bits."""
    chosen, count, compiled = members[0].settings, len(members), programs(members[0])
    block = stack(members, width(members[0]))
    state = compiled.start(block)
    optimum, row = compiled.prepare(block, state)
    at = restored(state, row, kept) if kept else BlockProgress(0, state, [on_host(row, lambda x: x[:count, None])])
    _tell(on_rows, at.rows[0], np.full(count, -1))
    while at.step < chosen.steps and _goes_on(at):
        state, rows = compiled.advance(block, optimum, at.state, np.int32(at.step))
        left = -(-(chosen.steps - at.step) // chosen.log_every)
        fresh = on_host(rows, lambda x, left=left: x[:count, :left])
        before = np.asarray(at.rows[-1].step)[:, -1]
        at = BlockProgress(min(chosen.steps, at.step + ROWS * chosen.log_every), state, [*at.rows, fresh])
        _tell(on_rows, fresh, before)
        if on_chunk:
            on_chunk(at)
    table = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *at.rows)
    graded = on_host(compiled.close(block, optimum, at.state))
    searched = policies.REGISTRY[chosen.policy.name].bounds is not None
    best = np.asarray(compiled.best_in_family(block)).tolist() if searched else [None] * count
    last_state = jax.tree.map(lambda leaf: leaf if _is_key(leaf) else np.asarray(leaf), at.state)

    def finished(i: int) -> Trained:
        rows, last, closed = (jax.tree.map(lambda x: x[i], tree) for tree in (table, last_state, graded))
        last = last._replace(policy=jax.tree.map(jnp.asarray, last.policy))  # which is to be called, and not only read
        return Trained(_closed(_moved(rows, -1), closed.last), last, closed.optimum, _without_unknown(closed), best[i])

    return [finished(i) for i in range(count)]


def _without_unknown(closed: FinalGrade) -> FinalGrade:
    """The final grade without the details of an optimum that is not known."""
    if not np.isnan(closed.optimum.objective):
        return closed
    return closed._replace(details={name: seen for name, seen in closed.details.items() if name != "optimum"})


def _goes_on(at: BlockProgress) -> bool:
    """Whether any run has taken its last step: it may have diverged, or stopped at a KL."""
    return bool((at.rows[-1].step[:, -1] == at.step).any())


def _closed(rows: Row, last: Row | None) -> Row:
    """The rows with the final grade's row, if it has one, in place of the last."""
    if last is None:
        return rows
    return jax.tree.map(lambda column, value: np.concatenate([column[:-1], np.asarray(value)[None]]), rows, last)


def on_host(tree, select=lambda x: x):
    """The tree with NumPy arrays as leaves, each passed through `select`."""
    return jax.tree.map(lambda x: select(np.asarray(x)), tree)


def _tell(on_rows, rows: Row, before: np.ndarray) -> None:
    for i in range(len(before)) if on_rows else ():
        on_rows(i, _moved(jax.tree.map(lambda x, i=i: x[i], rows), before[i]))


def _moved(rows: Row, before: int | np.integer) -> Row:
    """The rows whose step went on from `before`: once a run has diverged, nothing new is logged."""
    fresh = np.diff(rows.step, prepend=before) > 0
    return jax.tree.map(lambda x: x[fresh], rows)
