"""Checks of a run for each fault: the number that a warning is raised on."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from rlkl.diagnostics.diagnose.faults import FAULTS, SMALL_KL, SURE, Warning
from rlkl.diagnostics.diagnose.measures import course, groups, limits, mismatch
from rlkl.diagnostics.diagnose.measures.estimates import Estimate, effective_size, ratio, z
from rlkl.diagnostics.diagnose.measures.lengths import Lengths
from rlkl.diagnostics.diagnose.measures.run import Run

if TYPE_CHECKING:  # these import jax
    from rlkl.diagnostics.diagnose.measures.pull import PullRow
    from rlkl.diagnostics.diagnose.setting import Setting

PAGES = "warnings/"


class Evidence(NamedTuple):
    """What warnings are decided on: a run, and what was computed of it."""

    run: Run
    groups: groups.Groups | None
    lengths: Lengths
    limits: list[limits.LimitRow]
    setting: "Setting | None"
    pulls: list["PullRow"]


def warnings(evidence: Evidence) -> list[Warning]:
    """The warnings of a run, in the order of FAULTS."""
    checks: dict[str, Callable[[Evidence], tuple[float, str] | None]] = {
        "zero_probability": _zero_probability,
        "negative_kl": _negative_kl,
        "k1_k3_disagree": _k1_k3_disagree,
        "heavy_tails": _heavy_tails,
        "kl_at_start": _kl_at_start,
        "sampler_mismatch": _sampler_mismatch,
        "mismatch_grows": _mismatch_grows,
        "truncated_sampling": _truncated_sampling,
        "raw_log_probs": _raw_log_probs,
        "clamped": _clamped,
        "clipped": _clipped,
        "zero_std_groups": _zero_std_groups,
        "entropy_collapse": _entropy_collapse,
        "length_bias": _length_bias,
        "descends_other": _descends_other,
    }
    return list(_raised(evidence, checks))


def _raised(evidence: Evidence, checks: dict[str, Callable[[Evidence], tuple[float, str] | None]]) -> Iterator[Warning]:
    for name, check in checks.items():
        raised = check(evidence)
        if raised is not None:
            value, says = raised
            yield Warning(name, value, FAULTS[name].threshold, says, PAGES + FAULTS[name].page)


def _zero_probability(evidence: Evidence) -> tuple[float, str] | None:
    counts = {name: count for name, count in evidence.run.totals.zero_probability.items() if count}
    if not counts:
        return None
    listed = ", ".join(f"{count} by {name}" for name, count in counts.items())
    return float(sum(counts.values())), f"tokens of probability zero: {listed}"


def policy_kl(run: Run, estimator: str) -> Estimate | None:
    """KL(pi‖pi_ref) of a token by k1 or k3, weighted where the tokens are the sampler's; None where it is not told."""
    name = f"{estimator}_weighted" if run.sampled_from == "sampler" else estimator
    if not run.has(name) or run.sampled_from == "reference":
        return None
    return ratio(run.table[name], run.length, run.clusters)


def _negative_kl(evidence: Evidence) -> tuple[float, str] | None:
    kl = policy_kl(evidence.run, "k1")
    if kl is None or not z(kl) < -SURE:
        return None
    return z(kl), f"KL(pi‖pi_ref) by k1 is {kl.value:.4g} ± {kl.stderr:.2g} nats a token"


def _k1_k3_disagree(evidence: Evidence) -> tuple[float, str] | None:
    run = evidence.run
    k3 = policy_kl(run, "k3") if run.sampled_from != "reference" else None
    if k3 is None or not k3.value > 0.0:
        return None
    mean_ratio = mismatch.mean_ref_ratio(run)
    share = abs(mean_ratio.value - 1.0) / k3.value
    if not (abs(z(mean_ratio, 1.0)) > SURE and share > FAULTS["k1_k3_disagree"].threshold):
        return None
    drawn = "mu" if run.sampled_from == "sampler" else "pi"
    return share, f"the mean of pi_ref/{drawn} is {mean_ratio.value:.4g} ± {mean_ratio.stderr:.2g}; samples of {drawn} give 1"


def _heavy_tails(evidence: Evidence) -> tuple[float, str] | None:
    run = evidence.run
    if not run.has("k3") or run.clusters.size < 100:
        return None
    sums = run.clusters.sums(run.table["reverse_k3" if run.sampled_from == "reference" else "k3"])
    size = effective_size(sums)
    if not size < FAULTS["heavy_tails"].threshold:
        return None
    largest = run.totals.k3.share_of_largest(0.01)
    shares = f"1% of the tokens have {100 * largest:.0f}% of its sum"
    return size, f"k3 rests on {size:.3g} effective {run.unit} of {run.clusters.size}; {shares}"


def _kl_at_start(evidence: Evidence) -> tuple[float, str] | None:
    run = evidence.run
    if not run.has("step", "k3") or run.sampled_from == "reference":
        return None
    first = int(run.table["step"].min())
    if first > 1:
        return None
    kl = policy_kl(run.part(run.table["step"] == first), "k3")
    if kl is None or not (kl.value > SMALL_KL and z(kl) > SURE):
        return None
    return kl.value, f"at step {first} the KL is already {kl.value:.4g} ± {kl.stderr:.2g} nats a token by k3"


def _sampler_mismatch(evidence: Evidence) -> tuple[float, str] | None:
    run = evidence.run
    if not run.has("m3"):
        return None
    kl = ratio(run.table["m3"], run.length, run.clusters)
    if not (kl.value > SMALL_KL and (z(kl) > SURE or math.isinf(kl.value))):
        return None
    return kl.value, f"KL(mu‖pi) is {kl.value:.4g} ± {kl.stderr:.2g} nats a token by k3"


def _mismatch_grows(evidence: Evidence) -> tuple[float, str] | None:
    grown = course.change(evidence.run, "mismatch_k3")
    if grown is None or not (grown.z > SURE and grown.last.value > FAULTS["mismatch_grows"].threshold * grown.first.value):
        return None
    factor = grown.last.value / grown.first.value if grown.first.value > 0.0 else math.inf
    return factor, f"KL(mu‖pi) a token rose from {grown.first.value:.3g} to {grown.last.value:.3g} nats"


def _truncated_sampling(evidence: Evidence) -> tuple[float, str] | None:
    if not evidence.run.has("m1"):
        return None
    mean_ratio = mismatch.mean_ratio(evidence.run)
    distance = abs(mean_ratio.value - 1.0)
    if not (distance > FAULTS["truncated_sampling"].threshold and abs(z(mean_ratio, 1.0)) > SURE):
        return None
    return distance, f"the mean of pi/mu is {mean_ratio.value:.4g} ± {mean_ratio.stderr:.2g}"


def _raw_log_probs(evidence: Evidence) -> tuple[float, str] | None:
    header = evidence.run.header
    changes = {
        "temperature": header.temperature not in (None, 1.0),
        "top_p": header.top_p not in (None, 1.0),
        "top_k": header.top_k is not None,
    }
    said = [f"{name}={getattr(header, name):g}" for name, changed in changes.items() if changed]
    if header.reported != "raw" or not said:
        return None
    return float(len(said)), f"tokens were drawn with {', '.join(said)}, and raw log-probabilities are reported"


def _clamped(evidence: Evidence) -> tuple[float, str] | None:
    row = next((row for row in evidence.limits if row.limit == "|log pi/pi_ref| > 10"), None)
    if row is None or not row.share > FAULTS["clamped"].threshold:
        return None
    return row.share, f"{100 * row.tokens:.2g}% of the tokens, with {100 * row.share:.0f}% of the sum of k3, are beyond ±10"


def _clipped(evidence: Evidence) -> tuple[float, str] | None:
    row = next((row for row in evidence.limits if row.limit == "pi/mu outside [0.8, 1.2]"), None)
    if row is None:
        return None
    known = not math.isnan(row.share)
    share = row.share if known else row.tokens
    if not share > FAULTS["clipped"].threshold:
        return None
    effect = "lose their gradient at a clip range of .2" if known else "have pi/mu outside of [.8, 1.2]"
    return share, f"{100 * share:.0f}% of the tokens {effect}"


def _zero_std_groups(evidence: Evidence) -> tuple[float, str] | None:
    if evidence.groups is None or not evidence.groups.zero_std.value > FAULTS["zero_std_groups"].threshold:
        return None
    share = evidence.groups.zero_std.value
    return share, f"the rewards of {100 * share:.0f}% of {evidence.groups.groups} groups are all equal"


def _entropy_collapse(evidence: Evidence) -> tuple[float, str] | None:
    changed = course.change(evidence.run, "entropy")
    if changed is None or not changed.first.value > 0.0:
        return None
    left = changed.last.value / changed.first.value
    if not (changed.z < -SURE and left < FAULTS["entropy_collapse"].threshold):
        return None
    return left, f"the entropy fell from {changed.first.value:.3g} to {changed.last.value:.3g} nats a token"


def _length_bias(evidence: Evidence) -> tuple[float, str] | None:
    difference, kl = evidence.lengths.difference, evidence.lengths.kl
    aggregation = None if evidence.setting is None else evidence.setting.aggregation
    if difference is None or aggregation != "seq-mean-token-mean":
        return None
    by_token, by_sequence = kl["token-mean"].value, kl["seq-mean-token-mean"].value
    share = abs(by_sequence / by_token - 1.0) if by_token else math.inf
    if not (abs(z(difference)) > SURE and share > FAULTS["length_bias"].threshold):
        return None
    return share, f"the KL is {by_sequence:.3g} nats a token averaged by sequences, and {by_token:.3g} averaged by tokens"


def _descends_other(evidence: Evidence) -> tuple[float, str] | None:
    setting = evidence.setting
    if setting is None or setting.is_its_own:
        return None
    row = next((row for row in evidence.pulls if row.gradient == setting.wanted and row.kind == "exact"), None)
    if row is None:
        return math.nan, f"it descends {setting.descends.says}, not {setting.wanted}"
    error = "" if math.isnan(row.ratio_stderr) else f" ± {row.ratio_stderr:.1g}"
    pulls = f"on these tokens it pulls {row.ratio:.3g}{error} times as hard"
    return row.ratio, f"it descends {setting.descends.says}, not {setting.wanted}; {pulls}"
