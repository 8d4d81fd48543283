"""The tables of a diagnosis as text. A table without numbers is left out."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlkl.diagnostics.diagnose.showing.numbers import COURSES, interval, percent, with_error
from rlkl.reports.console import number
from rlkl.reports.sheet import Sheet

if TYPE_CHECKING:
    from rlkl.diagnostics.diagnose.diagnosis import Diagnosis

PER = ("sequence", "token")
MEANS = {
    "seq-mean-token-sum": "sum over the tokens of a sequence, mean over sequences",
    "token-mean": "mean over all tokens of the batch",
    "seq-mean-token-mean": "mean over the tokens of a sequence, then over sequences",
}


def short_sheets(diagnosis: "Diagnosis") -> Iterator[Sheet]:
    """The tables that the console shows."""
    yield from kl_sheets(diagnosis.kl, with_intervals=False)
    yield from mismatch_sheets(diagnosis.mismatch, with_intervals=False)
    yield from limit_sheets(diagnosis.limits)
    yield from group_sheets(diagnosis)
    yield from length_sheets(diagnosis)
    yield from pull_sheets(diagnosis)


def all_sheets(diagnosis: "Diagnosis") -> Iterator[Sheet]:
    """Every table, with 95% intervals."""
    yield from kl_sheets(diagnosis.kl, with_intervals=True)
    yield from pull_sheets(diagnosis)
    yield from mismatch_sheets(diagnosis.mismatch, with_intervals=True)
    yield from tail_sheets(diagnosis.tails)
    yield from limit_sheets(diagnosis.limits)
    yield from group_sheets(diagnosis)
    yield from length_sheets(diagnosis)
    yield from change_sheets(diagnosis.changes)
    yield from position_sheets(diagnosis.by_position)
    yield from token_sheets(diagnosis.by_token)


def _by_sequence_and_token(frame: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The rows of a frame by what they are, each with its rows `per` sequence and token."""
    for names, rows in frame.groupby(keys, sort=False):
        yield names, {row.per: row for row in rows.itertuples()}


def _cells(rows: dict[str, Any], with_intervals: bool) -> Iterator[str]:
    for per in PER:
        row = rows.get(per)
        yield "" if row is None else with_error(row.value, row.stderr)
        if with_intervals:
            yield "" if row is None else interval(row.low, row.high)


def _columns(with_intervals: bool) -> tuple[str, ...]:
    return tuple(name for per in PER for name in ((f"a {per}", "95%") if with_intervals else (f"a {per}",)))


def kl_sheets(kl: pd.DataFrame, with_intervals: bool) -> Iterator[Sheet]:
    """Every KL that the samples tell, by estimator."""
    rows = []
    for (formula, estimator, weights, _), pair in _by_sequence_and_token(kl, ["kl", "estimator", "weights", "note"]):
        rows.append((formula, _weighted(estimator, weights), *_cells(pair, with_intervals)))
    if rows:
        yield Sheet("KL in nats, ± a standard error", 2, ("of", "by", *_columns(with_intervals)), rows, _notes(kl))


def _weighted(estimator: str, weights: str) -> str:
    return estimator if weights == "none" else f"{estimator}, {weights} weights"


def _notes(kl: pd.DataFrame) -> str:
    """The notes on a frame's rows, each once."""
    texts = []
    for (formula, note), rows in kl[kl["note"] != ""].groupby(["kl", "note"], sort=False):
        names = dict.fromkeys(_weighted(row.estimator, row.weights) for row in rows.itertuples())
        every = len(rows) == (kl["kl"] == formula).sum()
        texts.append(f"{formula}{'' if every else ' by ' + ' and '.join(names)}: {note}")
    return "; ".join(texts)


def mismatch_sheets(mismatch: pd.DataFrame, with_intervals: bool) -> Iterator[Sheet]:
    """How far the sampler is from the policy."""
    rows = []
    for (name,), pair in _by_sequence_and_token(mismatch, ["name"]):
        about = pair["token"].about
        rows.append((name, about, *_cells(pair, with_intervals), number(pair["token"].expected)))
    if rows:
        columns = ("number, r = pi/mu", "estimates", *_columns(with_intervals), "if mu is pi")
        yield Sheet("Sampler mu and policy pi, on the sampler's tokens", 2, columns, rows)


def tail_sheets(tails: pd.DataFrame) -> Iterator[Sheet]:
    """How heavy the tails of the estimates are."""
    rows = [
        (row.about, f"{row.effective:,.1f} of {row.clusters:,}", percent(row.largest_share), percent(row.weights))
        for row in tails.itertuples()
    ]
    if rows:
        columns = ("sum over tokens", "effective sample", "share of the top 1% of tokens", "effective share of the ratios")
        note = "effective sample: of sequences, or of groups where they are known"
        yield Sheet("Tails", 1, columns, rows, note)


def limit_sheets(limits: pd.DataFrame) -> Iterator[Sheet]:
    """Where common clamps and clip ranges would act."""
    rows = [(row.limit, percent(row.tokens), percent(row.share), row.about) for row in limits.itertuples()]
    if rows:
        ordered = [(limit, about, tokens, share) for limit, tokens, share, about in rows]
        note = "-: not known without advantages" if any(row[3] == "-" for row in ordered) else ""
        yield Sheet("Limits", 2, ("beyond", "the share is", "tokens", "share"), ordered, note)


def group_sheets(diagnosis: "Diagnosis") -> Iterator[Sheet]:
    """The success rates of groups, with the slope of the utility that standardised advantages ascend there."""
    groups = diagnosis.groups
    if groups is None or not groups.rows:
        return
    rows = [(f"{row.low:g} to {row.high:g}", percent(row.share), number(row.slope)) for row in groups.rows]
    title = f"{groups.groups:,} groups of {groups.size:g} answers"
    note = "slope of U: the factor of a prompt's reward gradient under division by the group's deviation; plain rewards have 1"
    yield Sheet(title, 1, ("success rate", "groups", "slope of U"), rows, note)


def length_sheets(diagnosis: "Diagnosis") -> Iterator[Sheet]:
    """The KL by each way to average token losses over a batch."""
    lengths = diagnosis.lengths
    rows = [(name, MEANS[name], with_error(each.value, each.stderr)) for name, each in lengths.kl.items()]
    if rows:
        known = {name: value for name, value in lengths.correlations.items() if not math.isnan(value)}
        listed = ", ".join(f"{name} {value:.2f}" for name, value in known.items())
        note = f"correlation of length with {listed}" if known else ""
        yield Sheet("KL(pi‖pi_ref) by aggregation, in nats by k1", 2, ("aggregation", "it is the", "KL"), rows, note)


def pull_sheets(diagnosis: "Diagnosis") -> Iterator[Sheet]:
    """How hard the penalty pulls, beside the gradients of divergences."""
    if diagnosis.penalty is None or diagnosis.penalty.pulls.empty:
        return
    kinds = {"exact": "gradient", "semi": "semi-gradient", "": ""}
    rows = []
    for row in diagnosis.penalty.pulls.itertuples():
        share = "" if row.kind == "" else with_error(row.ratio, row.ratio_stderr)
        rows.append((row.gradient, kinds[row.kind], with_error(row.pull, row.stderr), share))
    title = "Pull towards pi_ref at beta 1, in nats a sequence"
    note = "the pull of a gradient: minus its derivative along the mixture (1 - x) pi + x pi_ref at x = 0"
    yield Sheet(title, 2, ("of", "its", "pull", "your penalty over it"), rows, note)


def change_sheets(changes: pd.DataFrame) -> Iterator[Sheet]:
    """The first and the last fifth of the steps."""
    rows = [
        (COURSES[row.name], with_error(row.first, row.first_stderr), with_error(row.last, row.last_stderr), f"{row.z:.1f}")
        for row in changes.itertuples(index=False)
    ]
    if rows:
        columns = ("in nats a token", "first fifth of the steps", "last fifth", "difference in standard errors")
        yield Sheet("Over the steps", 1, columns, rows)


def position_sheets(positions: pd.DataFrame) -> Iterator[Sheet]:
    """Means by the distance from a sequence's start."""
    titles = {"kl_k3": "KL(pi‖pi_ref) by k3", "mismatch_k3": "KL(mu‖pi) by k3", "entropy": "surprise -log pi"}
    known = [name for name in titles if positions[name].notna().any()]
    rows = []
    for row in positions.to_dict("records"):
        where = f"{row['first']:,}" if row["first"] == row["last"] else f"{row['first']:,} to {row['last']:,}"
        rows.append((where, f"{row['tokens']:,}", *(number(row[name]) for name in known)))
    if rows and known:
        yield Sheet("By position, in nats a token", 1, ("position", "tokens", *(titles[name] for name in known)), rows)


def token_sheets(tokens: pd.DataFrame) -> Iterator[Sheet]:
    """The token ids that carry the KL and the mismatch."""
    titles = {"kl_share": "of k3 of KL(pi‖pi_ref)", "mismatch_share": "of k3 of KL(mu‖pi)"}
    known = [name for name in titles if (tokens[name] > 0.0).any()]
    rows = [
        (str(row["token"]), f"{row['times']:,}", *(percent(row[name]) for name in known)) for row in tokens.to_dict("records")
    ]
    if rows:
        yield Sheet("Token ids with the largest shares", 1, ("token id", "times", *(titles[name] for name in known)), rows)
