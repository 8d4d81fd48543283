"""Diagnose rollouts: their KL, their sampler, their groups, their entropy and their penalty, with warnings."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from rlkl.diagnostics.diagnose.checks import Evidence, warnings
from rlkl.diagnostics.diagnose.faults import Warning
from rlkl.diagnostics.diagnose.measures import course, groups, kl, lengths, limits, mismatch, tokens
from rlkl.diagnostics.diagnose.measures.estimates import Estimate
from rlkl.diagnostics.diagnose.measures.run import Further, Run, collect, no_columns
from rlkl.diagnostics.diagnose.reading import arrays, files
from rlkl.diagnostics.diagnose.reading.chunk import Chunk, Header
from rlkl.errors import SettingsError

if TYPE_CHECKING:
    from rlkl.diagnostics.diagnose.measures.pull import PullRow
    from rlkl.diagnostics.diagnose.penalty import Penalty
    from rlkl.diagnostics.diagnose.setting import Setting


class LeftOut(NamedTuple):
    """Something that could not be said, and the reason."""

    what: str
    why: str


@dataclass(frozen=True)
class Diagnosis:
    """What rollouts say. Frames have a row a number, with its standard error and its 95% interval; KLs are in nats.

    sampled_from: whose samples the tokens are: the policy's, the sampler's, or the reference's. tail_curves: the share of the
    sums of k3 in the largest tokens, by their share. entropy: of the policy, a token. by_step, by_length: means over tokens.
    changes: the first and the last fifth of the steps. by_position: by distance from the start, in powers of 2. by_token: the
    token ids with the largest shares of the KL and of the mismatch.
    """

    sources: list[str]
    header: Header
    sampled_from: str
    sequences: int
    tokens: int
    kl: pd.DataFrame
    mismatch: pd.DataFrame
    limits: pd.DataFrame
    tails: pd.DataFrame
    tail_curves: pd.DataFrame
    groups: groups.Groups | None
    lengths: lengths.Lengths
    entropy: Estimate | None
    by_step: pd.DataFrame
    changes: pd.DataFrame
    by_length: pd.DataFrame
    by_position: pd.DataFrame
    by_token: pd.DataFrame
    penalty: "Penalty | None"
    warnings: list[Warning]
    left_out: list[LeftOut]

    def report(self, folder: str | Path) -> list[Path]:
        """Write report.json, report.html and the figures into a folder, and return their paths."""
        from rlkl.diagnostics.diagnose.showing.report import write_report

        return write_report(self, Path(folder))


def diagnose(
    source: str | Path | Mapping[str, Any] | Sequence[str | Path],
    *,
    penalty: Sequence[str] = (),
    library: str | None = None,
    on_progress: Callable[[str, int], None] = lambda source, tokens: None,
    **header: Any,
) -> Diagnosis:
    """Diagnose files of rollouts, or arrays by name.

    source: a file or folder, several, or a mapping with arrays of NumPy, JAX or PyTorch: `log_probs`, `sampler_log_probs`,
    `ref_log_probs`, ... as [N, T] with `mask`, or flat with `lengths`. penalty: overrides as a run takes them, as in
    ["penalty.estimator=k3", "penalty.placement=loss", "algorithm=grpo"]. library: a preset, as in "trl_grpo". header: what
    holds for all files (temperature, top_p, top_k, reported, vocab_size, sampled_from). on_progress: called after each part
    with the name of its source and its number of tokens. Raises `SettingsError` for what cannot be read.
    """
    setting: "Setting | None" = None
    further: Further = no_columns
    if penalty or library is not None:
        from rlkl.diagnostics.diagnose.penalty import known_setting, pull_columns  # imports jax

        setting = known_setting(penalty, library)
        further = pull_columns(setting)
    opened: Iterable[tuple[str, Header, Iterator[Chunk]]]
    if isinstance(source, Mapping):
        sources, opened = ["arrays"], iter([("arrays", *arrays.from_arrays({**source, **header}))])
    else:
        paths = [source] if isinstance(source, (str, Path)) else list(source)
        sources = [str(path) for path in paths]
        opened = ((str(path), known, chunks) for path, known, chunks in files.open_rollouts(paths, header))
    runs = collect(((known, _reported(name, chunks, on_progress)) for name, known, chunks in opened), further)
    if not runs or not sum(run.totals.tokens for run in runs):
        raise SettingsError("PATH", " ".join(sources), "holds no token that counts")
    main = next((run for run in runs if run.sampled_from != "reference"), runs[0])
    return _diagnosis(sources, runs, main, setting)


def _reported(source: str, chunks: Iterator[Chunk], on_progress: Callable[[str, int], None]) -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        on_progress(source, int(chunk.lengths.sum()))


def _diagnosis(sources: list[str], runs: list[Run], main: Run, setting: "Setting | None") -> Diagnosis:
    grouped, length, limit = groups.groups(main), lengths.lengths(main), limits.limit_rows(main)
    penalty: Penalty | None = None
    pulls: list[PullRow] = []
    if setting is not None:
        from rlkl.diagnostics.diagnose.penalty import describe_penalty, pull_rows

        pulls = pull_rows(main, setting)
        penalty = describe_penalty(main, setting, pulls)
    evidence = Evidence(main, grouped, length, limit, setting, pulls)
    return Diagnosis(
        sources=sources,
        header=main.header,
        sampled_from=main.sampled_from,
        sequences=sum(len(run.length) for run in runs),
        tokens=sum(run.totals.tokens for run in runs),
        kl=_frame(kl.KlRow, [row for run in runs for row in kl.kl_rows(run)]),
        mismatch=_frame(mismatch.MismatchRow, mismatch.mismatch_rows(main)),
        limits=_frame(limits.LimitRow, limit),
        tails=_frame(tokens.TailRow, tokens.tail_rows(main)),
        tail_curves=_frame(tokens.TailPoint, tokens.tail_curves(main)),
        groups=grouped,
        lengths=length,
        entropy=course.entropy(main),
        by_step=_frame(course.Point, course.by_step(main)),
        changes=_frame(course.ChangeRow, course.change_rows(main)),
        by_length=_frame(course.Point, course.by_length(main)),
        by_position=_frame(tokens.PositionRow, tokens.position_rows(main)),
        by_token=_frame(tokens.TokenRow, tokens.token_rows(main)),
        penalty=penalty,
        warnings=warnings(evidence),
        left_out=list(_left_out(runs, main, grouped, setting)),
    )


def _frame(kind: Any, rows: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(kind._fields))


def _left_out(runs: list[Run], run: Run, grouped: groups.Groups | None, setting: "Setting | None"):
    fields = {
        "k1": "ref_log_probs and log_probs",
        "m1": "both log-probabilities of the sampler's tokens",
        "surprise": "log_probs",
    }
    about = {"k1": "the KL to the reference", "m1": "the mismatch of sampler and policy", "surprise": "the entropy"}
    for name, needed in fields.items():
        if not run.has(name):
            yield LeftOut(about[name], f"needs {needed}")
    if not any(each.sampled_from == "reference" for each in runs) and run.has("k1"):
        yield LeftOut("KL(pi_ref‖pi) without weights", "needs samples of the reference, in a file with sampled_from=reference")
    if run.has("k1") and not run.has("m1") and run.sampled_from == "policy":
        yield LeftOut(
            "whether the tokens are the policy's", "needs sampler_log_probs; they are taken to be drawn from log_probs"
        )
    if not run.has("group"):
        yield LeftOut("dependence within groups", "needs group; sequences are taken to be independent")
    if grouped is None:
        yield LeftOut("groups without signal", "needs group and reward, and groups of several sequences")
    if not run.has("step"):
        yield LeftOut("the course over steps", "needs step")
    if not run.totals.ids.counts.size:
        yield LeftOut("which tokens carry the KL", "needs tokens")
    if setting is None:
        yield LeftOut("what the penalty descends", "needs its setting, as in penalty.estimator=k3 or library=trl_grpo")
    elif not run.has("k1"):
        yield LeftOut("the pull of the penalty", "needs ref_log_probs and log_probs")
    elif grouped is None and setting.is_scaled:
        yield LeftOut("what beta is worth beside scaled advantages", "needs group and reward")
    if setting is not None and setting.library == "verl_grpo":
        yield LeftOut("verl's clip of k3 at 10 in the pull", "is not in this preset; the limits show how much of k3 it reaches")
