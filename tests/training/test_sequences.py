"""Sequence tasks are what their descriptions say, are trained to their optima, and refuse what is wrong."""

import json
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import exact, tasks
from rlkl.config.build import build
from rlkl.errors import SettingsError
from rlkl.policies import Fixed
from rlkl.rollouts import sampling
from rlkl.tasks import grammar
from rlkl.training import blocks
from tests.helpers import CHAIN, sequence_log_probability, sequences

SEQUENCES = sorted(name for name in tasks.REGISTRY if name.startswith("sequence/"))


def reference_outcomes(card: tasks.Card) -> dict[str, float]:
    automaton = card.task.automaton
    table = jnp.broadcast_to(jnp.asarray(card.task.log_reference), (automaton.horizon, *card.task.log_reference.shape))
    p = jax.jit(lambda rows: exact.outcome_probabilities(automaton, rows))(table)
    return dict(zip(card.outcomes, np.asarray(p)[automaton.outcomes].tolist(), strict=True))


@pytest.mark.parametrize("name", SEQUENCES)
def test_every_sequence_task_has_normalised_rows_and_named_outcomes(name):
    card = tasks.build(name)
    np.testing.assert_allclose(np.exp(card.task.log_reference).sum(axis=1), 1.0, atol=1e-12)
    assert len(card.tokens) == card.task.automaton.vocabulary
    assert len(set(card.outcomes)) == len(card.outcomes)
    np.testing.assert_allclose(sum(reference_outcomes(card).values()), 1.0, atol=1e-12)


def test_grammar_has_forty_words_and_about_two_dozen_states():
    assert len(grammar.WORDS) == len(set(grammar.WORDS)) == 40
    automaton = tasks.build("sequence/grammar", reward="ending").task.automaton
    assert 20 <= automaton.states <= 26
    assert automaton.horizon == 12


@pytest.mark.parametrize("reward", ["topic", "ending", "length"])
def test_grammar_s_rewards_are_those_of_the_sentences_read(reward):
    """Each sampled sentence's reward, computed again from its words."""
    card = tasks.build("sequence/grammar", reward=reward)
    automaton = card.task.automaton
    table = jnp.broadcast_to(jnp.asarray(card.task.log_reference), (automaton.horizon, *card.task.log_reference.shape))
    batch = jax.jit(lambda key: sampling.sample(key, automaton, Fixed(table, automaton.horizon), 400)._replace(size=None))(
        jax.random.key(1)
    )
    finished = 0
    for tokens, mask, states in zip(*(np.asarray(x) for x in (batch.tokens, batch.mask, batch.states)), strict=True):
        words = [card.tokens[token] for token in tokens[mask]]
        done = words[-1] in grammar.ENDINGS
        finished += done
        expected = {
            "topic": float(done and "dragon" in words),
            "ending": {".": 0.5, "!": 1.0, "?": 1.0}.get(words[-1], 0.0),
            "length": max(0.0, 1 - abs(len(words) - 9) / 9) if done else 0.0,
        }[reward]
        np.testing.assert_allclose(card.task.reward[states[-1]], expected)
    assert finished > 380


def test_motifs_are_found_wherever_they_stand_and_ten_times_apart():
    card = tasks.build("sequence/motif", motifs=["abc", "cfe", "hgfh"], horizon=5)
    share = np.array([1 / rank for rank in range(1, 9)])
    share /= share.sum()
    expected = dict.fromkeys(("abc", "cfe", "hgfh"), 0.0)
    for letters in product(range(8), repeat=5):
        text = "".join("abcdefgh"[i] for i in letters)
        places = {m: text.find(m) + len(m) for m in expected if m in text}
        if places:
            expected[min(places, key=places.get)] += np.prod(share[list(letters)])
    found = reference_outcomes(card)
    np.testing.assert_allclose([found[m] for m in expected], list(expected.values()), rtol=1e-10)
    p = reference_outcomes(tasks.build("sequence/motif"))
    assert p["abc"] > 10 * p["cfe"] > 100 * p["hgfh"] > 0


def test_valid_brackets_are_counted_by_catalan_s_number():
    card = tasks.build("sequence/brackets")
    valid = sum(p for name, p in reference_outcomes(card).items() if name.startswith("0 open"))
    np.testing.assert_allclose(valid, 132 / 2**12, rtol=1e-12)
    assert max(tasks.build("sequence/brackets", reward="depth").task.reward) == 1.0


def train(task: dict, divergence: str, beta: float) -> blocks.Trained:
    plain = {"task": task, "penalty": {"divergence": divergence, "beta": beta}}
    return blocks.train_runs([build(plain).run])[0]


@pytest.mark.parametrize("divergence", ["kl_pi_ref", pytest.param("kl_ref_pi", marks=pytest.mark.slow)])
def test_exact_training_reaches_the_optimum_of_brackets(divergence):
    assert abs(train({"name": "sequence/brackets", "horizon": 6}, divergence, 0.3).rows.report.regret[-1]) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQUENCES)
def test_exact_training_reaches_the_optimum_of_every_sequence_task(name):
    for divergence, beta in product(("kl_pi_ref", "kl_ref_pi"), (0.1, 0.3, 1.0)):
        assert abs(train({"name": name}, divergence, beta).rows.report.regret[-1]) <= 1e-4, (divergence, beta)


def test_at_small_beta_the_best_brackets_are_the_reference_filtered_for_valid_ones():
    trained = train({"name": "sequence/brackets", "horizon": 6}, "kl_pi_ref", 0.02)
    valid = np.array([name.startswith("0 open") for name in tasks.build("sequence/brackets", horizon=6).outcomes])
    reference = trained.final.outcomes.reference
    np.testing.assert_allclose(trained.final.outcomes.optimum[valid], reference[valid] / reference[valid].sum(), atol=1e-12)


def test_a_run_on_sentences_writes_texts_to_compare(call, tmp_path):
    done = call("task=sequence/grammar", "steps=4", "log_every=4", "tracking=none", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "samples.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["reference", "policy", "optimum"]
    assert lines[0].split()[1] in grammar.LEXICON["determiner"]


def test_an_automaton_comes_from_its_file():
    card = tasks.build("automaton/custom", path=str(CHAIN))
    assert card.outcomes == ("far", "near", "there")
    np.testing.assert_allclose(reference_outcomes(card)["there"], 0.4 * 0.3 + 0.6 * 0.4 * 0.3)
    assert abs(train({"name": "automaton/custom", "path": str(CHAIN)}, "kl_pi_ref", 0.3).rows.report.regret[-1]) <= 1e-4


def test_a_typicality_reward_is_learned_on_sequences():
    """The trained policy is pi_ref(y)^(1 + a/beta) e^(r/beta), normalised over all sequences."""
    task = {"name": "automaton/custom", "path": str(CHAIN), "typicality": 0.4}
    trained = train(task, "kl_pi_ref", 0.5)
    assert abs(trained.rows.report.regret[-1]) <= 1e-4
    made = build({"task": task}).run.task
    listed = sequences(made.automaton)
    log_ref = np.array([sum(made.log_reference[s, v] for _, s, v in path) for path, _ in listed])
    logits = (1 + 0.4 / 0.5) * log_ref + np.array([made.reward[end] for _, end in listed]) / 0.5
    expected = np.exp(logits - np.logaddexp.reduce(logits))
    of = np.exp(sequence_log_probability(np.asarray(trained.state.policy.table()), made.automaton))
    np.testing.assert_allclose(of, expected, atol=1e-5)


FAULTS = [
    ({"horizon": 0}, "horizon is 0"),
    ({"start": 5}, "start is 5"),
    ({"next_state": [[0, 9], [0, 2]]}, "next_state[0, 1] is 9"),
    ({"reference": [[0.6, 0.5], [0.7, 0.3]]}, "row 0 sums to 1.1"),
    ({"reference": [[1.0, 0.0]]}, "need D rows"),
    ({"next_state": [[0, -1], [0, 2]]}, "illegal token"),
    ({"reward": [0.0, 0.1, 1.0, 2.0], "states": None}, "state 3 has a reward"),
    ({"reward": [0.0, "x", 1.0]}, "reward must be"),
    ({"vocabulary": ["one"]}, "at least 2 names"),
    ({"states": ["a"]}, "1 names for 3 states"),
    ({"horizon": 10**9}, "GiB"),
    ({"rewards": []}, "did you mean 'reward'"),
]


@pytest.mark.parametrize(("change", "says"), FAULTS, ids=lambda value: str(value)[:40])
def test_every_fault_of_a_file_is_said_in_one_line(tmp_path, change, says):
    path = tmp_path / "automaton.json"
    path.write_text(json.dumps(json.loads(CHAIN.read_text()) | change))
    with pytest.raises(SettingsError) as refused:
        tasks.build("automaton/custom", path=str(path))
    assert says in str(refused.value)
    assert refused.value.key == "task.path"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "says"), [("{", "is not JSON"), ("[]", "one JSON object"), ("{}", "lacks 'vocabulary'")])
def test_a_file_that_holds_no_automaton_is_refused(tmp_path, content, says):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(SettingsError, match=says):
        tasks.build("automaton/custom", path=str(tmp_path / "file.json"))


def test_divergences_without_a_chain_are_refused_to_exact_gradients_on_long_sequences_alone():
    for name in ("jensen_shannon", "total_variation"):
        with pytest.raises(SettingsError, match="no dynamic program over"):
            build({"task": {"name": "sequence/motif"}, "penalty": {"divergence": name}})
        built = build({"task": {"name": "sequence/motif"}, "penalty": {"divergence": name}, "algorithm": {"name": "rloo"}})
        assert built.run.settings.penalty.estimator == "score"
        assert build({"task": {"name": "sequence/brackets"}, "penalty": {"divergence": name}}).run
