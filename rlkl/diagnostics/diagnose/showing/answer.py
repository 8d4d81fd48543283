"""A diagnosis in sentences."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlkl.diagnostics.diagnose.measures.kl import POLICY, REVERSE, SAMPLER
from rlkl.diagnostics.diagnose.showing.numbers import percent, with_error, with_interval
from rlkl.reports.console import number

if TYPE_CHECKING:
    from rlkl.diagnostics.diagnose.diagnosis import Diagnosis

DRAWN_FROM = {"policy": "the policy pi", "sampler": "the sampler mu", "reference": "the reference pi_ref"}
MOST_SOURCES = 3


def sources(diagnosis: "Diagnosis") -> str:
    """The names of the files, the first few where there are many."""
    names = diagnosis.sources
    more = f" and {len(names) - MOST_SOURCES} more" if len(names) > MOST_SOURCES else ""
    return ", ".join(names[:MOST_SOURCES]) + more


def sentences(diagnosis: "Diagnosis") -> list[str]:
    """The answer, a paragraph for each thing that the rollouts say."""
    paragraphs = (_samples, _kl, _other_direction, _mismatch, _entropy, _groups, _lengths, _penalty)
    texts = (" ".join(paragraph(diagnosis)) for paragraph in paragraphs)
    return [text for text in texts if text]


def _samples(diagnosis: "Diagnosis") -> Iterator[str]:
    header = diagnosis.header
    said = [f"{key} {getattr(header, key):g}" for key in ("temperature", "top_p", "top_k") if getattr(header, key) is not None]
    said += [f"{header.reported} log-probabilities"] if header.reported else []
    said += [f"{key} {getattr(header, key)}" for key in ("model", "reference") if getattr(header, key)]
    listed = f" ({', '.join(said)})" if said else ""
    yield (
        f"{diagnosis.sequences:,} sequences with {diagnosis.tokens:,} tokens, "
        f"drawn from {DRAWN_FROM[diagnosis.sampled_from]}{listed}."
    )
    if diagnosis.sampled_from != "reference" and _rows(diagnosis, REVERSE, "none"):
        yield "Some of them are drawn from the reference pi_ref."


def _rows(diagnosis: "Diagnosis", formula: str, weights: str) -> dict[tuple[str, str], Any]:
    """The estimates of a KL with these weights, by estimator and by what they are per."""
    rows = diagnosis.kl[(diagnosis.kl["kl"] == formula) & (diagnosis.kl["weights"] == weights)]
    return {(row.estimator, row.per): row for row in rows.itertuples()}


def _kl(diagnosis: "Diagnosis") -> Iterator[str]:
    drawn = diagnosis.sampled_from
    formula = REVERSE if drawn == "reference" else POLICY
    rows = _rows(diagnosis, formula, "token" if drawn == "sampler" else "none")
    if not rows:
        return
    weighted = ", weighted by pi/mu of each token, in the states that mu visits" if drawn == "sampler" else ""
    whole, token = rows["k3", "sequence"], rows["k3", "token"]
    yield f"{formula} is {with_interval(whole)} nats a sequence and {with_interval(token)} a token, by k3{weighted}."
    whole, token = rows["k1", "sequence"], rows["k1", "token"]
    yield f"By k1 it is {with_interval(whole)} and {with_interval(token)}."
    warned = {warning.name: warning for warning in diagnosis.warnings}
    if not all(math.isfinite(row.value) for row in rows.values()):
        yield "A value that is not finite comes from tokens to which one of the models gives no probability."
    elif "k1_k3_disagree" in warned:
        yield (
            f"k1 and k3 disagree: {warned['k1_k3_disagree'].says}. Their log-probabilities are then not those that tokens were"
            " drawn with, or the rare tokens that k3 rests on are not among these."
        )
    elif math.isnan(whole.stderr):
        yield "There are too few groups or sequences for an error, so that k1 and k3 cannot be compared."
    elif drawn != "reference":
        yield "k1 and k3 agree within their errors."
    if "heavy_tails" in warned:
        yield f"The tails are heavy: {warned['heavy_tails'].says}."
    if drawn == "sampler":
        row = _rows(diagnosis, SAMPLER, "none")["k1", "token"]
        yield f"Unweighted, these tokens estimate {SAMPLER}: {with_interval(row)} nats a token by k1."


def _other_direction(diagnosis: "Diagnosis") -> Iterator[str]:
    drawn = diagnosis.sampled_from
    formula = POLICY if drawn == "reference" else REVERSE
    own = _rows(diagnosis, formula, "none").get(("k1", "sequence"))
    weighted = _rows(diagnosis, formula, "sequence").get(("k1", "sequence"))
    if own is not None:
        yield f"The other direction, {formula}, is {with_interval(own)} nats a sequence by k1 on the reference's own samples."
    elif weighted is not None and not math.isnan(weighted.value):
        yield f"The other direction, {formula}, is {with_interval(weighted)} nats a sequence,"
        yield f"by k1 with weights of whole sequences ({weighted.note})."
    elif weighted is not None:
        yield f"The other direction, {formula}, cannot be told from these samples ({weighted.note.removeprefix('left out: ')})."


def _mismatch(diagnosis: "Diagnosis") -> Iterator[str]:
    rows = {(row.name, row.per): row for row in diagnosis.mismatch.itertuples()}
    if not rows:
        return
    k3, logged = rows["k3 = r - 1 - log r", "token"], rows["1/r - 1 + log r", "token"]
    mean, share = rows["mean ratio", "token"], rows["effective share", "sequence"]
    yield f"The sampler differs from the policy by KL(mu‖pi) = {with_interval(k3)} nats a token, by k3."
    yield f"The mean of pi/mu is {with_error(mean.value, mean.stderr)}."
    yield f"As weights of whole sequences, pi/mu leave {percent(share.value)} of the sequences as effective sample."
    yield f"What libraries log as KL(pi‖mu), 1/r - 1 + log r, is {number(logged.value)} and estimates {logged.about}."


def _entropy(diagnosis: "Diagnosis") -> Iterator[str]:
    entropy = diagnosis.entropy
    if entropy is None:
        return
    yield f"The entropy of pi is {with_interval(entropy)} nats a token."
    for row in diagnosis.changes.itertuples(index=False):
        if row.name == "entropy":
            first, last = with_error(row.first, row.first_stderr), with_error(row.last, row.last_stderr)
            yield f"In the first fifth of the steps it is {first}, in the last {last}."


def _groups(diagnosis: "Diagnosis") -> Iterator[str]:
    groups = diagnosis.groups
    if groups is None:
        return
    yield f"Of {groups.groups:,} groups of {groups.size:g} answers, {percent(groups.zero_std.value)} have equal rewards,"
    yield "so that their advantages are 0."
    if groups.weight is not None and not math.isnan(groups.weight.value):
        yield (
            "Division by the group's standard deviation (divisor G - 1) multiplies the reward's gradient by"
            f" {with_error(groups.weight.value, groups.weight.stderr)}, averaged over prompts by their variance p(1-p)."
        )


def _lengths(diagnosis: "Diagnosis") -> Iterator[str]:
    lengths = diagnosis.lengths
    yield f"A sequence has {lengths.mean:,.1f} tokens on average,"
    yield f"one of the shortest tenth {lengths.shortest:,.1f}, one of the longest {lengths.longest:,.1f}."
    if lengths.shortest > 0.0 and lengths.longest > lengths.shortest:
        times = lengths.longest / lengths.shortest
        yield f"Under seq-mean-token-mean a token of the shortest weighs {times:.3g} times as much as one of the longest."


def _penalty(diagnosis: "Diagnosis") -> Iterator[str]:
    penalty = diagnosis.penalty
    if penalty is None:
        return
    from rlkl.training.describe import entrance  # imports jax

    setting = penalty.setting
    how = f"{entrance(setting.penalty)}; {setting.algorithm}, {setting.aggregation}"
    yield f"The penalty ({how}) descends {setting.descends.says}."
    if setting.aggregation == "seq-mean-token-mean" and diagnosis.lengths.shortest < diagnosis.lengths.longest:
        yield "The weights 1/length of seq-mean-token-mean change its gradient further, and the reward's, since lengths differ."
    row = next((row for row in penalty.pulls.itertuples() if row.gradient == setting.wanted and row.kind == "exact"), None)
    if row is not None and math.isfinite(row.ratio):
        yield f"On these tokens it pulls {with_error(row.ratio, row.ratio_stderr)} times as hard as beta {setting.wanted}."
    elif row is not None:
        yield f"On these tokens its pull and that of {setting.wanted} cannot be compared: not both are finite."
    if penalty.scale is not None and setting.penalty.placement == "loss":
        scale = with_error(penalty.scale.value, penalty.scale.stderr)
        yield f"The advantages multiply the reward's gradient by {scale}."
        if not penalty.scale.value > 2.0 * penalty.scale.stderr:
            yield "That is not surely above 0, so that these advantages do not tell what beta is worth."
    if penalty.coefficient is not None:
        worth = with_error(*penalty.coefficient)
        yield f"Beside rewards as they are, beta {float(setting.penalty.beta):g} is worth a coefficient of {worth}."
    if penalty.nearest:
        listed = ", or ".join(penalty.nearest)
        yield f"The nearest settings that descend {setting.wanted}: {listed}."
