"""The benchmarks' arithmetic, and that the ways they compare do the same work: none of their timings."""

import jax
import numpy as np
import pandas as pd
import pytest

from experiments.speed import bandit_peers, growth, sweeping, throughput


def test_a_turn_takes_the_best_thread_count_of_each_peer(monkeypatch):
    def rate(python, command, threads, seconds):
        return {"rlkl": 60.0, "exact": 90.0, "categorical": 1.0}.get(command[2], 4.0 + threads)

    monkeypatch.setattr(throughput, "rate", rate)
    rows = {row["peer"]: row["ratio"] for row in throughput.turn(10, "python", list(throughput.PEERS), 1.0)}
    assert rows == {"exact": 60 / 90, "categorical": 60.0, "inverse": 12.0} | dict.fromkeys(
        ("multinomial", "searchsorted", "compiled"), 10.0
    )


def test_a_sweep_s_ratios_are_of_one_turn():
    names = (sweeping.IMPORT, sweeping.FUSED, sweeping.RERUN, sweeping.WANDB, sweeping.BASIC, sweeping.LARGE, sweeping.PLAIN)
    turns = [dict(zip(names, numbers, strict=True)) for numbers in ((1, 4, 2, 5.28, 12, 40, 80), (1, 2, 2, 3.28, 8, 30, 20))]
    table = sweeping.summary(turns).set_index("command").measured
    assert table[sweeping.WANDB] == "20 ms a job more"
    assert table[sweeping.BASIC] == "3.5 times rlkl -m"
    assert table[sweeping.PLAIN] == "15.0 times rlkl -m"


def test_a_cost_in_proportion_has_slope_one():
    size = np.array([1, 10, 100, 1000])
    assert growth.slope(pd.DataFrame({"size": size, "seconds": 3.0 * size})) == pytest.approx(1.0)
    assert growth.draw(
        pd.DataFrame([(over, n, n) for over in ("runs", "arms", "tokens") for n in size], columns=["over", "size", "seconds"])
    )


@pytest.mark.parametrize("inverse", [False, True])
def test_scans_learn_what_rlkl_learns(inverse, monkeypatch):
    """Their last policies' mean rewards, over a few seeds, within what their spread allows."""
    monkeypatch.setattr(bandit_peers, "steps", lambda arms: 400)
    monkeypatch.setattr(bandit_peers, "RATE", 0.05)
    log_reference, reward = bandit_peers.bandit(5)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):  # as their users have it
        train = bandit_peers.scan(5, inverse)
        ends = np.array([np.asarray(train(jax.random.key(seed))) for seed in range(8)])
    got = np.exp(ends - np.logaddexp.reduce(ends, axis=1)[:, None]) @ reward
    weight = np.exp(log_reference + reward / bandit_peers.BETA)
    assert abs(got.mean() - weight @ reward / weight.sum()) <= 0.02
