"""The claims of the experiment."""

import math

import numpy as np
import pandas as pd

from experiments.distillation.measured import COUNT, ENDS, TRAINED_K, Q
from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import largest, ratio, smallest, value

INNER = range(1, COUNT)  # k below the size of the vocabulary


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """Every claim; false, never an error, where numbers are missing."""
    return [*_of_ends(drawn), *_of_clamps(drawn), *_of_own_tokens(drawn), *_of_sequences(drawn), *_of_runs(drawn)]


def _over(drawn: pd.DataFrame, panel: str, name: str, ks=INNER) -> np.ndarray:
    return np.array([value(drawn, panel, name, k) for k in ks])


def _of_ends(drawn: pd.DataFrame) -> list[Claim]:
    teacher = _over(drawn, "mass", "teacher")
    dropped, kl = _over(drawn, "mass", "dropped"), {name: _over(drawn, "kl", name) for name in ENDS}
    least, forward = (_over(drawn, "value", name) for name in ("dropped", "forward dropped"))
    flows = drawn[(drawn["panel"] == "flow") & (drawn["series"] != "forward dropped")]["y"]
    few = next((k for k, nats in zip(INNER, kl["bucket"], strict=True) if nats <= 0.01), math.nan)
    return [
        near("KL(pi‖teacher), tail dropped, any k: the student's mass of the top k over the teacher's, 1/e",
             largest(np.abs(dropped / teacher - 1 / math.e)) + 1 / math.e, 1 / math.e, 1e-9),
        at_most("KL(pi‖teacher), tail dropped, any k: value of the sum at its minimum, -q(K)/e, largest", largest(least), -0.1),
        at_most("KL(pi‖teacher), tail dropped: largest |value + q(K)/e|", largest(np.abs(least + teacher / math.e)), 1e-9),
        at_least("KL(pi‖teacher), tail dropped: KL(pi‖teacher) at k = 11 of 12 over that at k = 1",
                 ratio(kl["dropped"][-1], kl["dropped"][0]), 3.0),
        at_least("KL(pi‖teacher), tail dropped: KL(pi‖teacher) at the end, k = 11 of 12", kl["dropped"][-1], 2.0),
        near("KL(teacher‖pi), tail dropped, any k: KL(pi‖teacher) at the end, over -log of the teacher's mass",
             largest(np.abs(kl["forward dropped"] / -np.log(teacher) - 1.0)) + 1.0, 1.0, 1e-9),
        near("KL(teacher‖pi), tail dropped: the student's mass of the top k at the end",
             smallest(_over(drawn, "mass", "forward dropped")), 1.0, 1e-9),
        *(near(f"KL(teacher‖pi), tail dropped: KL(pi‖teacher) at the end, k = {k}, -log q(K)",
               kl["forward dropped"][k - 1], -math.log(q), 1e-9) for k, q in ((7, 0.92), (11, 0.992))),
        near("the teacher's mass of its top 7 of 12 tokens", teacher[6], 0.92, 1e-9),
        near("the uniform student: KL(pi‖teacher), -log 12 less the mean of log q",
             _uniform(drawn), -math.log(COUNT) - float(np.log(Q).mean()), 1e-9),
        at_least("KL(pi‖teacher), tail dropped: least step of KL(pi‖teacher) at the end from k to k + 1, k = 2 to 10",
                 smallest(np.diff(kl["dropped"][1:])), 0.0),
        at_most("KL(teacher‖pi), tail dropped, any k: value of the sum at the end, q(K) log q(K), largest",
                largest(forward), -0.005),
        at_most("bucket, any k: |mass of the top k - the teacher's|",
                largest(np.abs(_over(drawn, "mass", "bucket") - teacher)), 1e-9),
        at_most("the sampled token's log-ratio of the top k in the reward: largest difference of its flow to the bucket's end",
                largest(series.of(drawn, "flow", "masked k1")["y"]), 1e-6),
        near("bucket: smallest k with KL(pi‖teacher) of at most .01", few, 7, 0),
        at_most("bucket: KL(pi‖teacher) at the end, k = 7", kl["bucket"][6], 0.01),
        at_least("renormalised: mass of the top k at the end over the uniform student's, least over k from 2 to 11",
                 smallest((_over(drawn, "mass", "renormalised") / (np.array(INNER) / COUNT))[1:]), 1.001),
        near("renormalised, k = 1: KL(pi‖teacher) at the end, the uniform student's",
             kl["renormalised"][0], _uniform(drawn), 1e-9),
        at_least("renormalised, any k: KL(pi‖teacher) at the end over the bucket's, least",
                 smallest(kl["renormalised"] / kl["bucket"]), 2.0),
        at_most("all tails at k = 12 of 12: largest KL(pi‖teacher)",
                largest(value(drawn, "kl", name, COUNT) for name in ENDS), 1e-9),
        at_most("gradient flow, any loss but KL(teacher‖pi) with its tail dropped: largest difference to the closed form",
                largest(flows), 1e-6),
        at_most("gradient flow, KL(teacher‖pi) with its tail dropped, which never arrives: the same",
                largest(series.of(drawn, "flow", "forward dropped")["y"]), 1e-4),
    ]  # fmt: skip


def _uniform(drawn: pd.DataFrame) -> float:
    """KL(pi‖teacher) of the uniform student: its sum over all tokens."""
    return value(drawn, "value at the start", "dropped", COUNT)


def _of_clamps(drawn: pd.DataFrame) -> list[Claim]:
    clamped, bucket = (_over(drawn, "kl", name) for name in ("clamped", "bucket"))
    at_start = _over(drawn, "value at the start", "dropped")
    more, less = (value(drawn, "negative", name, TRAINED_K) for name in ("pi(K) > q(K)", "pi(K) <= q(K)"))
    return [
        at_most("KL(teacher‖pi), tail dropped, pi(K) > q(K): share of students at which the sum is negative", more, 0.6),
        near("KL(teacher‖pi), tail dropped, pi(K) <= q(K): the same", less, 0.0, 0.0),
        at_most("KL(teacher‖pi), tail dropped and clamped at 0: KL(pi‖teacher) at its end over the bucket's, k up to 6",
                largest((clamped / bucket)[:6]), 1.5),
        at_least("KL(teacher‖pi), tail dropped: KL(pi‖teacher) at its end without the clamp over with it, k = 4",
                 ratio(value(drawn, "kl", "forward dropped", TRAINED_K), value(drawn, "kl", "clamped", TRAINED_K)), 4.0),
        near("KL(pi‖teacher), tail dropped: number of k, of 11, at which the sum is negative at the uniform student already",
             float(np.sum(at_start < 0.0)), 7, 0),
    ]  # fmt: skip


def _of_own_tokens(drawn: pd.DataFrame) -> list[Claim]:
    stationary = [
        near(f"the student's own top 4, {loss}: sets of the 495 that it can come to rest at",
             value(drawn, "own stationary sets", loss), sets, 0)
        for loss, sets in (("dropped", 0), ("bucket", 6), ("renormalised", 495))
    ]  # fmt: skip

    def mean(panel: str, loss: str) -> float:
        return float(series.of(drawn, panel, loss)["y"].mean())

    def median(panel: str, loss: str) -> float:
        return float(series.of(drawn, panel, loss)["y"].median())

    return [
        *stationary,
        at_most("the student's own top 4, bucket: share of 100 random students that end with the teacher's top 4",
                mean("own set is right", "bucket"), 0.5),
        at_least("the student's own top 4, bucket: share of them at rest", mean("own end is stationary", "bucket"), 0.95),
        at_least("the student's own top 4, bucket: median KL(pi‖teacher) over that with the teacher's top 4",
                 ratio(median("own kl", "bucket"), median("teacher's kl", "bucket")), 1.3),
        at_most("the student's own top 4, tail dropped: share of them at rest", mean("own end is stationary", "dropped"), 0.0),
        at_least("the student's own top 4, tail dropped: least KL(pi‖teacher) after training",
                 smallest(series.of(drawn, "own kl", "dropped")["y"]), 0.3),
    ]  # fmt: skip


def _of_sequences(drawn: pd.DataFrame) -> list[Claim]:
    share = "sequences' mass, over the teacher's"
    start = value(drawn, "sequences", "start")
    token, whole = (np.array(series.of(drawn, "one row", name)["y"]) for name in ("immediate", "reward-to-go"))
    worse = token / whole if len(token) == len(whole) else np.array([math.nan])
    return [
        near("sequences of 3, tail dropped, k = 2: probability of sequences in the top k over the teacher's, e^-3",
             value(drawn, share, "dropped"), math.exp(-3.0), 1e-9),
        near("sequences of 3, bucket, k = 2: the same", value(drawn, share, "bucket"), 1.0, 1e-9),
        at_least("sequences of 3, tail dropped, k = 2: KL(pi‖teacher) at the end over the untrained student's",
                 ratio(value(drawn, "sequences", "dropped"), start), 1.2),
        at_most("sequences of 3, bucket, k = 2: KL(pi‖teacher) at the end over the untrained student's",
                ratio(value(drawn, "sequences", "bucket"), start), 0.2),
        at_least("a student of one row, 20 teachers: KL(pi‖teacher) with immediate credit over reward-to-go, largest",
                 largest(worse), 1.5),
        at_least("a student of one row, 20 teachers: KL(pi‖teacher) with immediate credit over reward-to-go, median",
                 float(np.median(worse)) if len(worse) else math.nan, 1.1),
        at_least("a student of one row, 20 teachers: KL(pi‖teacher) with immediate credit over reward-to-go, least",
                 smallest(worse), 1.0),
    ]  # fmt: skip


def _of_runs(drawn: pd.DataFrame) -> list[Claim]:
    to_end = drawn[drawn["panel"] == "run to its end"]
    runs = {name: series.of(drawn, "run sequences", name)["y"] for name in ("k1 reward_to_go", "k1 immediate", "top_k reward")}
    start = value(drawn, "sequences", "start")
    return [
        at_most("trained, one state, k = 4, dropped and bucket: largest difference of a probability to the closed form",
                largest(to_end["y"]) if to_end["series"].nunique() == 2 else math.nan, 1e-3),
        at_most("trained, sequences, k1 in the reward with reward-to-go: largest KL(pi‖teacher)",
                largest(runs["k1 reward_to_go"]), 1e-4),
        at_most("trained, sequences, k1 in the reward with immediate credit: largest KL(pi‖teacher)",
                largest(runs["k1 immediate"]), 1e-4),
        at_least("trained, sequences, bucket of the top 2 in the reward: least KL(pi‖teacher)",
                 smallest(runs["top_k reward"]), 3.0),
        at_least("trained, sequences, bucket of the top 2 in the reward: least KL(pi‖teacher) over the untrained student's",
                 ratio(smallest(runs["top_k reward"]), start), 2.0),
    ]  # fmt: skip
