"""Pretrained references: maximum likelihood on samples, graded against the model, kept by content, and trained against."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import errors, exact
from rlkl.config.build import Built, build
from rlkl.divergences import REGISTRY
from rlkl.exact import Objective, bandit_optimum, optimal_policy
from rlkl.policies import Fixed
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.runs.folder import checkpoint
from rlkl.runs.folder.files import pack_arrays
from rlkl.runs.store import checked_files, pretrained_references
from rlkl.tasks import automaton as automata
from rlkl.training import blocks, pretraining
from tests.helpers import PARAMS, sequences

FEW = {"name": "sequence/brackets", "horizon": 4}
SOON = {"name": "pretrained", "steps": 300, "samples": 4000, "learning_rate": 0.03}
WHOLE = checked_files.Faults(pytest.fail)  # nothing is wrong with the store

FAMILIES = [{"name": "tabular"}, {"name": "ngram", "order": 2}, {"name": "gru", "width": 8}]


def attached(made: Built) -> Built:
    """With its reference, as jax arrays."""
    made = pretrained_references.attach(made, WHOLE)
    return made._replace(run=jax.tree.map(jnp.asarray, made.run))


def built(tmp_path, policy: dict, task: dict = FEW, reference: dict = SOON, **groups) -> Built:
    plain = {"task": task, "policy": policy, "reference": reference, "store": str(tmp_path), **groups}
    return build(plain)


@pytest.mark.parametrize("policy", FAMILIES, ids=lambda p: p["name"])
def test_a_pretrained_reference_comes_close_to_the_model_and_is_used_again(tmp_path, policy, monkeypatch):
    made = attached(built(tmp_path, policy))
    close = made.card.facts["reference_kl"]
    assert 0.0 < close < 0.02  # of 2.77 nats; 4,000 samples leave about (parameters)/(2 * 4000)
    listed = enumerate_all(made.run.task.automaton)
    true = Fixed(jnp.asarray(made.run.task.log_reference), 4)
    p, q = (np.asarray(scoring.log_probability(each, listed)) for each in (true, made.run.reference))
    np.testing.assert_allclose(close, np.sum(np.exp(p) * (p - q)), rtol=1e-9)
    monkeypatch.setattr(pretrained_references, "_program", lambda _: None)  # must not be called again
    fitted = pretraining.Fitted(made.run.reference, jnp.zeros(()), jnp.zeros(()))
    monkeypatch.setattr(jax, "eval_shape", lambda *_: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), fitted))
    again = pretrained_references.attach(built(tmp_path, policy, penalty={"beta": 0.7}, seed=3), WHOLE)
    for a, b in zip(jax.tree.leaves(made.run.reference), jax.tree.leaves(again.run.reference), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_reference_depends_on_is_in_its_hash(tmp_path):
    hashes = [
        pretrained_references.attach(made, WHOLE).card.facts["reference_hash"]
        for made in (
            built(tmp_path, {"name": "tabular"}, reference=SOON | {"steps": 2}),
            built(tmp_path, {"name": "tabular"}, reference=SOON | {"steps": 2, "seed": 1}),
            built(tmp_path, {"name": "tabular"}, reference=SOON | {"steps": 3}),
            built(tmp_path, {"name": "tabular"}, FEW | {"horizon": 6}, SOON | {"steps": 2}),
            built(tmp_path, {"name": "ngram"}, reference=SOON | {"steps": 2}),
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert {path.stem for path in (tmp_path / "references").glob("*.npz")} == set(hashes)


def test_a_damaged_reference_in_the_store_is_trained_anew(tmp_path):
    made = pretrained_references.attach(built(tmp_path, {"name": "tabular"}, reference=SOON | {"steps": 2}), WHOLE)
    path = tmp_path / "references" / f"{made.card.facts['reference_hash']}.npz"
    whole = path.read_bytes()
    leaves = checked_files.unpack_arrays(whole[checked_files.CHECKSUM_SIZE :])
    for altered in (leaves[:-1], [*leaves, leaves[0]], [leaves[0][:, :1], *leaves[1:]], [leaves[0].astype(int), *leaves[1:]]):
        checked_files.write(path, pack_arrays(altered), WHOLE)
        assert path.read_bytes() != whole
        attach_anew(tmp_path)
        assert path.read_bytes() == whole
    path.write_bytes(whole[: len(whole) // 2])
    attach_anew(tmp_path)
    assert path.read_bytes() == whole


def attach_anew(tmp_path) -> None:
    """Attach a reference, whose entry in the store is damaged; that is said."""
    said: list[str] = []
    pretrained_references.attach(
        built(tmp_path, {"name": "tabular"}, reference=SOON | {"steps": 2}), checked_files.Faults(said.append)
    )
    assert len(said) == 1


@pytest.mark.parametrize("divergence", [pytest.param("kl_pi_ref", marks=pytest.mark.slow), "kl_ref_pi"])
def test_a_run_is_graded_against_its_pretrained_reference(tmp_path, divergence):
    penalty = {"divergence": divergence, "beta": 0.3}
    made = attached(built(tmp_path, {"name": "tabular"}, penalty=penalty, steps=600))
    trained = blocks.train_runs([made.run])[0]
    assert abs(trained.rows.report.values.kl_pi_ref[0]) < 1e-6  # it starts as a copy, in the training dtype
    assert abs(trained.rows.report.regret[-1]) <= 1e-4
    table = jnp.asarray(made.run.reference.table())
    value = exact.objective_value(
        Objective(made.run.task, Fixed(table, made.run.task.automaton.horizon), REGISTRY[divergence], PARAMS, jnp.asarray(0.3)),
        table,
    )
    np.testing.assert_allclose(trained.rows.report.objective[0], value, atol=1e-6)


@pytest.mark.parametrize("divergence", ["kl_pi_ref", pytest.param("hellinger", marks=pytest.mark.slow)])
def test_the_estimated_optimum_beside_a_network_s_reference_is_that_of_listed_sequences(tmp_path, divergence, monkeypatch):
    penalty = {"divergence": divergence, "beta": 0.3}
    run = attached(built(tmp_path, {"name": "gru", "width": 8}, penalty=penalty, algorithm={"name": "rloo"})).run
    div, beta, key = REGISTRY[divergence], jnp.asarray(0.3), jax.random.key(0)

    def of():
        return jax.jit(lambda run: optimal_policy.solve(Objective(run.task, run.reference, div, PARAMS, beta), False, key))(run)

    listed = of()
    reward = np.array([run.task.reward[end] for _, end in sequences(run.task.automaton)])
    log_ref = scoring.log_probability(run.reference, enumerate_all(run.task.automaton))
    ends = np.asarray(run.task.reward)[np.asarray(enumerate_all(run.task.automaton).states)[:, -1]]
    assert sorted(ends.tolist()) == sorted(reward.tolist())
    assert bandit_optimum.gap(div, PARAMS, listed.log_listed, log_ref, jnp.asarray(ends), beta) <= 1e-9
    monkeypatch.setattr(automata, "MOST_SEQUENCES", 1)
    sampled = of()
    assert float(listed.stderr) == 0.0 < float(sampled.stderr) < 0.01
    assert abs(float(sampled.objective) - float(listed.objective)) <= 4.0 * float(sampled.stderr)


def test_a_text_is_learned_from_its_own_words(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sees the dog and the dog sees the cat near the river " * 40)
    task = {"name": "sequence/text", "path": str(text), "unit": "word", "size": 8, "order": 1, "horizon": 4, "pattern": "cat"}
    made = built(tmp_path, {"name": "ngram", "order": 1}, task)
    corpus = made.card.corpus
    assert corpus is not None
    words = [[made.card.tokens[token] for token in row] for row in corpus[:2]]
    assert words == [["the", "cat", "sees", "the"], ["cat", "sees", "the", "dog"]]
    batch = pretraining.legal_windows(corpus, made.run.task)
    ends = {end for _, end in sequences(made.run.task.automaton)}
    assert set(np.asarray(batch.states)[:, -1].tolist()) <= ends
    assert pretrained_references.attach(made, WHOLE).card.facts["reference_kl"] < 0.2


def test_a_family_without_a_uniform_start_cannot_be_pretrained(tmp_path):
    with pytest.raises(errors.SettingsError, match="cannot be trained from a uniform start") as refused:
        built(tmp_path, {"name": "gaussian"}, {"name": "bandit/bimodal"})
    assert refused.value.key == "reference"


@pytest.mark.slow
def test_a_sampled_run_says_so_and_gives_its_errors(call, tmp_path):
    done = call(
        "task=sequence/motif", "task.horizon=8", "policy=gru", "policy.width=8", "algorithm=rloo", "steps=4", "log_every=2",
        "batch_size=16", "reference=pretrained", "reference.steps=20", "reference.samples=200", "tracking=none",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " ± " in done.stdout
    assert "pretrained on it" in done.stdout
    import json

    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exact"] is False
    assert "too many to list" in summary["exact_reason"]
    for name in ("reward", "objective", "regret", "kl_pi_ref", "kl_ref_pi", "kl_pi_optimum", "entropy", "optimal_objective"):
        assert summary[f"{name}_stderr"] > 0.0, name
    assert summary["reference_kl_stderr"] > 0.0
    header = (tmp_path / "run" / "outcomes.csv").read_text().splitlines()[0]
    assert header == "outcome,reward,reference,policy,optimum,policy_stderr"
    assert len((tmp_path / "run" / "samples.txt").read_text().split("\n\n")) == 8
    policy = checkpoint.load_policy(tmp_path / "run")
    assert policy.recurrent.weights.shape == (8, 24)


def test_a_task_is_written_out_and_read_back(call, tmp_path):
    small = ("steps=2", "log_every=1", "tracking=none")
    done = call("task=sequence/brackets", "task.horizon=4", "task.export=brackets.json", *small, "hydra.run.dir=one")
    assert done.returncode == 0, done.stderr
    again = call("task=automaton/custom", "task.path=brackets.json", *small, "hydra.run.dir=two")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "one" / "history.csv").read_bytes() == (tmp_path / "two" / "history.csv").read_bytes()
    refused = call("task=sequence/brackets", "task.export=nowhere/brackets.json", *small)
    assert refused.returncode == 2
    assert "task.export='nowhere/brackets.json': cannot be written" in refused.stderr
