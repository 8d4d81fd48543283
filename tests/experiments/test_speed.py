"""The benchmarks' arithmetic, and that the ways they compare do the same work: none of their timings."""

import jax
import numpy as np
import pandas as pd
import pytest

from experiments.speed import bandit_peers, bandits, floor, growth, same_work, sweeping, turns


def test_each_peer_counts_at_its_best_number_of_threads_and_ratios_are_of_one_turn():
    peers = [
        turns.Peer("a", turns.RLKL, "jax", ()),
        turns.Peer("a", "fast", "jax", (), 2.0),
        turns.Peer("a", "floor", "cc", (), each_count=True),
    ]
    speeds = {
        ("rlkl", 1): (10, 30),
        ("rlkl", 2): (20, 60),
        ("fast", 1): (5, 10),
        ("fast", 2): (1, 1),
        ("floor", 1): (100, 100),
        ("floor", 2): (200, 200),
    }
    rows = [(turn, "a", name, threads, float(pair[turn])) for (name, threads), pair in speeds.items() for turn in (0, 1)]
    table = turns.summary(pd.DataFrame(rows, columns=["turn", "task", "peer", "threads", "updates_per_second"]), peers)
    fast, *floor = table.itertuples(index=False, name=None)
    assert fast == ("a", "fast", 2, 40.0, 1, 7.5, 5.0, 4.0, 6.0, 2.0)
    assert [row[2:8] for row in floor] == [(1, 20.0, 1, 100.0, 0.2, 0.1), (2, 40.0, 2, 200.0, 0.2, 0.1)]


def test_a_difference_beyond_four_standard_errors_is_other_work():
    peer, runs = turns.Peer("10 arms", "other", "jax", ()), np.tile([-1.0, 1.0], 50)
    assert same_work.row(peer, "regret", list(runs), list(runs + 0.56))["same"] == "yes"  # 4 sqrt(2) 0.1005 = 0.568
    assert same_work.row(peer, "regret", list(runs), list(runs + 0.58))["same"] == "no"


def test_a_sweep_s_ratios_are_of_one_turn():
    names = (sweeping.IMPORT, sweeping.FUSED, sweeping.RERUN, sweeping.WANDB, sweeping.BASIC, sweeping.LARGE, sweeping.PLAIN)
    turns = [dict(zip(names, numbers, strict=True)) for numbers in ((1, 4, 2, 5.28, 12, 40, 80), (1, 2, 2, 3.28, 8, 30, 20))]
    table = sweeping.summary(turns).set_index("command").measured
    assert table[sweeping.WANDB] == "20 ms a job more"
    assert table[sweeping.BASIC] == "3.5 times rlkl -m"
    assert table[sweeping.PLAIN] == "15.0 times rlkl -m"


def test_a_cost_in_proportion_has_slope_one():
    size = np.array([1, 10, 100, 1000])
    assert growth.slope(pd.DataFrame({"size": size, "seconds": 3.0 * size}), "seconds") == pytest.approx(1.0)
    columns = ["over", "size", "seconds", "MiB"]
    assert growth.draw(pd.DataFrame([(over, n, n, n) for over in growth.SIZES for n in size], columns=columns))


@pytest.mark.parametrize("peer", ["categorical", "inverse", "floor"])
def test_peers_end_at_the_same_regret(peer):
    """Mean regrets of many short runs within four standard errors of rlkl's."""
    if peer == "floor" and not floor.available():
        pytest.skip("there is no C compiler")
    log_reference, reward = bandits.bandit(5)
    values = [f"task.reward={reward.tolist()}", f"task.reference={np.exp(log_reference).tolist()}"]
    states = bandit_peers.trainer(["task=bandit/custom", *values], "rloo", 64)(40)
    own = bandits.regret(np.concatenate([np.asarray(state.policy.logits)[:, 0, 0] for state in states])[:64])
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):  # as their users have it
        ends = bandits.regret(bandit_peers.PEERS[peer].build(5, 64, 40)())
    row = same_work.row(turns.Peer("5 arms", peer, "jax", ()), "regret", own.tolist(), ends.tolist())
    assert row["same"] == "yes", row


def test_regret_of_the_optimum_is_zero():
    log_reference, reward = bandits.bandit(7)
    logits = np.stack([log_reference + reward / bandits.BETA, log_reference])
    best, start = bandits.regret(logits)
    assert best == pytest.approx(0.0, abs=1e-12) and start > 0.0
