"""`rlkl check` as a user meets it: arguments, refusals, the assertion, the command and its files."""

import json

import jax.numpy as jnp
import pytest

from rlkl import cli
from rlkl.diagnostics.check import arguments, check, command, expect, worlds
from rlkl.errors import SettingsError
from tests.diagnostics import losses

K3 = losses.CORRECT["k3 in the loss"][1](losses.ops(jnp))


def k2(log_probs, ref_log_probs, rewards, mask, beta):
    return jnp.sum((beta * 0.5 * (log_probs - ref_log_probs) ** 2 - rewards[:, None] * log_probs) * mask) / len(mask)


def unknown(log_probs, something, beta):
    return log_probs.sum()


def no_policy(rewards, beta):
    return rewards.sum()


def raises(log_probs, ref_log_probs, beta):
    raise ValueError("no such thing")


def renamed(mine, theirs, m, c):
    return jnp.sum(c * 0.5 * (mine - theirs) ** 2 * m) / len(m)


REFUSED = [
    (unknown, {}, "loss='something'", "names.something=NAME"),
    (no_policy, {}, "loss='rewards, beta'", "one must be log_probs or logits"),
    (raises, {}, "loss='ValueError'", "no such thing"),
    (k2, {"settings": {"clip": 0.2}}, "clip=0.2", "the loss has no such argument"),
    (k2, {"settings": {"beta": 0.2}}, "beta=0.2", "beta=NUMBER sets it"),
    (k2, {"names": {"x": "mask"}}, "names.x='mask'", "the loss has no such argument"),
    (k2, {"names": {"mask": "masc"}}, "names.mask='masc'", "did you mean 'mask'?"),
    (k2, {"beta": 0.0}, "beta=0.0", "positive"),
    (k2, {"worlds": ["bandits"]}, "worlds='bandits'", "did you mean 'bandit'?"),
    ("nowhere.py:loss", {}, "loss='nowhere.py:loss'", "there is no file"),
    ("nowhere:loss", {}, "loss='nowhere:loss'", "cannot be imported"),
    ("json:dump_", {}, "loss='json:dump_'", "did you mean 'dump'?"),
    ("loss", {}, "loss='loss'", "FILE.py:NAME"),
]


@pytest.mark.parametrize(
    ("loss", "options", "key", "says"), REFUSED, ids=[f"{key} {i}" for i, (_, _, key, _) in enumerate(REFUSED)]
)
def test_what_cannot_be_checked_is_refused_in_one_line(loss, options, key, says):
    with pytest.raises(SettingsError) as refused:
        check.check_loss(loss, **options)
    assert str(refused.value).startswith(key)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_arguments_of_other_names_are_mapped():
    names = {"mine": "log_probs", "theirs": "ref_log_probs", "m": "mask", "c": "beta"}
    row = check.check_loss(renamed, names=names, worlds=["bandit"]).rows[0]
    assert (row.divergence, row.kind) == ("kl_pi_ref", "exact")


def test_every_spelling_is_of_one_array():
    spelled = [each for spellings in arguments.SPELLINGS.values() for each in spellings]
    assert len(spelled) == len(set(spelled))
    assert not set(spelled) & set(arguments.SPELLINGS)
    world = worlds.WORLDS["unequal"]()
    assert set(arguments.SPELLINGS) <= set(arguments.batch_arrays(world, world.population))


def test_the_assertion_says_what_the_loss_descends():
    expect.assert_descends(K3, "semi_kl_ref_pi", worlds=["bandit", "equal"])
    with pytest.raises(AssertionError, match=r"does not descend kl_pi_ref: bandit: KL\(pi_ref‖pi\)"):
        expect.assert_descends(K3, "kl_pi_ref", worlds=["bandit"])
    with pytest.raises(AssertionError, match="beta is worth 1 times beta"):
        expect.assert_descends(K3, "kl_ref_pi", worlds=["bandit"], coefficient=2.0)
    with pytest.raises(SettingsError, match="did you mean 'kl_pi_ref'"):
        expect.assert_descends(K3, "kl_pi_reff", worlds=["bandit"])


LOSS = """
import jax.numpy as jnp

def loss(logprobs, ref_logprobs, advantages, mask, beta=0.1):
    u = logprobs - ref_logprobs
    k3 = jnp.exp(-u) - 1 + u
    return jnp.sum((beta * k3 - advantages * logprobs) * mask) / jnp.sum(mask), {"kl": jnp.sum(k3 * mask) / jnp.sum(mask)}
"""


def test_the_command_prints_an_answer_and_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_loss.py").write_text(LOSS)
    arguments = ["check", "my_loss.py:loss", "worlds=bandit,unequal", "out=answer"]
    assert cli.main([*arguments, "expect=semi_kl_ref_pi", "coefficient=1"]) == 0
    printed = capsys.readouterr().out
    assert "On one token the penalty descends KL(pi_ref‖pi), at 1 times beta." in printed
    assert "as expected: semi_kl_ref_pi" in printed
    written = json.loads((tmp_path / "answer" / "check.json").read_text())
    assert {
        "world",
        "descends",
        "divergence",
        "kind",
        "coefficient",
        "residual",
        "cosine_kl_pi_ref",
        "cosine_kl_ref_pi",
        "flags",
    } <= set(written["rows"][0])
    assert [(row["world"], row["divergence"], row["kind"]) for row in written["rows"]] == [
        ("bandit", "kl_ref_pi", "exact"),
        ("unequal", "kl_ref_pi", "semi"),
    ]
    assert {path.name for path in (tmp_path / "answer").iterdir()} == {"check.json", "check.png", "check.pdf"}
    assert cli.main([*arguments, "expect=kl_pi_ref"]) == 1
    assert "not kl_pi_ref: bandit: KL(pi_ref‖pi)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ((), "rlkl check"),
        (("a:b", "c:d"), "rlkl check"),
        (("a:b", "beta=x"), "beta='x'"),
        (("a:b", "coefficient=y"), "coefficient='y'"),
    ],
)
def test_the_command_refuses_in_one_line(words, key, capsys):
    assert cli.main(["check", *words]) == 2
    assert key in capsys.readouterr().err


def test_settings_are_read_as_numbers_and_words():
    request = command.parse(["f.py:loss", "eps=1e-3", "clip=.2", "kind=k3", "on=true", "names.a=mask", "worlds=groups"])
    assert request.settings == {"eps": 1e-3, "clip": 0.2, "kind": "k3", "on": True}
    assert request.names == {"a": "mask"}
    assert request.worlds == tuple(check.GROUP_WORLDS)
