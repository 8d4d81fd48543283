"""Diagnose rollouts: their KL, their sampler, their groups, their entropy and their penalty, with warnings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rlkl.diagnostics.diagnose.faults import Evidence, Warning, warnings
from rlkl.diagnostics.diagnose.measures import course, groups, kl, lengths, limits, mismatch, pull, tokens
from rlkl.diagnostics.diagnose.measures.estimates import Estimate
from rlkl.diagnostics.diagnose.measures.run import Run, collect
from rlkl.diagnostics.diagnose.reading import arrays, files
from rlkl.diagnostics.diagnose.reading.chunk import Header
from rlkl.diagnostics.diagnose.setting import Setting, nearest_exact, resolve_setting
from rlkl.errors import SettingsError


class LeftOut(NamedTuple):
    """Something that could not be said, and the reason."""

    what: str
    why: str


@dataclass(frozen=True)
class Penalty:
    """What the user's penalty does on these tokens.

    pulls: how hard it pulls towards the reference, beside the gradients of divergences (see `measures.pull`). scale: the
    factor of the reward's gradient in its step; None without rewards. coefficient: the coefficient of the named divergence that
    pulls as hard, beside rewards as they are, with its standard error. nearest: settings that descend what the name says.
    """

    setting: Setting
    pulls: pd.DataFrame
    scale: Estimate | None
    coefficient: tuple[float, float] | None
    nearest: list[str]


@dataclass(frozen=True)
class Diagnosis:
    """What rollouts say. Frames have a row a number, with its standard error and its 95% interval; KLs are in nats.

    sampled_from: whose samples the tokens are: the policy's, the sampler's, or the reference's. by_step, by_length: means over
    tokens. by_position: by distance from the start, in powers of 2. by_token: the token ids with the largest shares of the KL
    and of the mismatch.
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
    groups: groups.Groups | None
    lengths: lengths.Lengths
    by_step: pd.DataFrame
    by_length: pd.DataFrame
    by_position: pd.DataFrame
    by_token: pd.DataFrame
    penalty: Penalty | None
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
    on_progress: Callable[[int], None] = lambda tokens: None,
    **header: Any,
) -> Diagnosis:
    """Diagnose files of rollouts, or arrays by name.

    source: a file or folder, several, or a mapping with arrays of NumPy, JAX or PyTorch: `log_probs`, `sampler_log_probs`,
    `ref_log_probs`, ... as [N, T] with `mask`, or flat with `lengths`. penalty: overrides as a run takes them, as in
    ["penalty.estimator=k3", "penalty.placement=loss", "algorithm=grpo"]. library: a preset, as in "trl_grpo". header: what
    holds for all files (temperature, top_p, top_k, reported, vocab_size, sampled_from). on_progress: called with the number of
    tokens of each part. Raises `SettingsError` for what cannot be read.
    """
    setting = resolve_setting(penalty, library) if penalty or library is not None else None
    if setting is not None:
        pull.check_estimator(setting.penalty)
    if isinstance(source, Mapping):
        sources, parts = ["arrays"], iter([arrays.from_arrays({**source, **header})])
    else:
        paths = [source] if isinstance(source, (str, Path)) else list(source)
        sources = [str(path) for path in paths]
        parts = ((each.header, each.chunks) for each in files.open_rollouts(paths, header))
    reads = setting is not None
    runs = collect(parts, on_progress, lambda chunk, values: _pulls(setting, chunk, values) if reads else {})
    if not runs or not sum(run.totals.tokens for run in runs):
        raise SettingsError("PATH", " ".join(sources), "holds no token that counts")
    main = next((run for run in runs if run.sampled_from != "reference"), runs[0])
    return _diagnosis(sources, runs, main, setting)


def _pulls(setting: Setting | None, chunk: Any, values: Any) -> dict[str, Any]:
    if setting is None or values.u is None:
        return {}
    return pull.pulls(setting.penalty, chunk, values)


def _diagnosis(sources: list[str], runs: list[Run], main: Run, setting: Setting | None) -> Diagnosis:
    grouped, length, limit = groups.groups(main), lengths.lengths(main), limits.limit_rows(main)
    pulls = []
    if setting is not None and main.has(pull.MINE) and main.sampled_from != "reference":
        pulls = pull.pull_rows(main, setting.penalty, setting.aggregation)
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
        groups=grouped,
        lengths=length,
        by_step=_frame(course.Point, course.by_step(main)),
        by_length=_frame(course.Point, course.by_length(main)),
        by_position=_frame(tokens.PositionRow, tokens.position_rows(main)),
        by_token=_frame(tokens.TokenRow, tokens.token_rows(main)),
        penalty=None if setting is None else _penalty(main, setting, pulls),
        warnings=warnings(evidence),
        left_out=list(_left_out(runs, main, grouped, setting)),
    )


def _frame(kind: type[NamedTuple], rows: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(kind._fields))


def _penalty(run: Run, setting: Setting, pulls: list[pull.PullRow]) -> Penalty:
    scale = groups.advantage_scale(run, setting.algorithm)
    row = next((row for row in pulls if row.gradient == setting.wanted and row.kind == "exact"), None)
    coefficient = None
    if row is not None:
        factor = scale.value if scale is not None and setting.penalty.placement == "loss" else 1.0
        beta = float(setting.penalty.beta)
        coefficient = (beta * row.ratio / factor, beta * row.ratio_stderr / factor)
    nearest = [] if setting.descends.kind == "exact" else nearest_exact(setting)
    return Penalty(setting, _frame(pull.PullRow, pulls), scale, coefficient, nearest)


def _left_out(runs: list[Run], run: Run, grouped: groups.Groups | None, setting: Setting | None):
    fields = {"k1": "ref_log_probs and log_probs", "m1": "sampler_log_probs and log_probs", "surprise": "log_probs"}
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
    elif grouped is None and setting.descends.says.endswith("scale"):
        yield LeftOut("what beta is worth beside scaled advantages", "needs group and reward")
