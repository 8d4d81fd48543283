"""Runs have the same numbers, and do not fail, under whatever settings of jax their user has."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import rlkl
from rlkl.config import machine
from rlkl.settings import numerics

SMALL = ["task=bandit/custom", "task.reward=[0,1,0.5]", "task.reference=[0.7,0.3,0]", "algorithm=rloo", "steps=4"]
# What a user may have set, by its name in jax.config.
OTHERS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_default_matmul_precision": "bfloat16",
    "jax_softmax_custom_jvp": True,
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_debug_key_reuse": True,
    "jax_check_tracer_leaks": True,
    "jax_disable_jit": True,
    "jax_transfer_guard": "disallow",
    "jax_enable_checks": True,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
}


@pytest.fixture
def settings():
    """Sets jax's global settings for a test; returns how."""
    before = {name: jax.config.values[name] for name in OTHERS}
    yield lambda given: [jax.config.update(name, value) for name, value in given.items()]
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def usual() -> str:
    """The history, as text, of a run under the tests' settings."""
    return rlkl.train(SMALL).history.to_csv()


def test_what_is_pinned_is_tried():
    assert {f"jax_{name}" for name in numerics.PINNED} <= set(OTHERS)


@pytest.mark.parametrize("name", ["all", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_run_is_the_same_under_every_setting(settings, usual, name):
    given = OTHERS if name == "all" else {name: OTHERS[name]}
    settings(given)
    held = dict(jax.config.values)
    assert rlkl.train(SMALL).history.to_csv() == usual
    assert dict(jax.config.values) == held


def test_entering_the_context_compiles_nothing_anew():
    draw = jax.jit(lambda key: jax.random.uniform(key, (3,), jnp.float64))
    key = jax.random.key(0)
    outside = draw(key)
    with numerics.pinned():
        assert (draw(key) == outside).all()
    assert draw._cache_size() == 1


def test_a_thread_has_the_context_and_others_do_not():
    with numerics.pinned(x64=False):
        assert jnp.ones(1).dtype == jnp.float32
    assert jnp.ones(1).dtype == jnp.float64


PLATFORMS = """
import jax
from rlkl import cli
from rlkl.settings import numerics
for named in ("cuda", "tpu", "nonsense"):
    jax.config.update("jax_platforms", named)
    print(cli.main(["task=bandit/random", "steps=2", "tracking=none", "hydra.run.dir=run"]))
jax.config.update("jax_platforms", "cpu")
numerics.check_devices()
"""


def test_a_platform_without_devices_is_one_line_that_names_it(tmp_path):
    code = [sys.executable, "-c", PLATFORMS]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == ["2", "2", "2"]
    expected = "error: JAX_PLATFORMS='{}': jax finds no such device; this machine has: cpu"
    assert done.stderr.splitlines() == [expected.format(each) for each in ("cuda", "tpu", "nonsense")]


def test_a_variable_that_jax_refuses_is_one_line_that_names_it(command):
    done = command("-m", "steps=2", "seed=0,1", environment={"JAX_ENABLE_X64": "maybe"})
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX_ENABLE_X64='maybe': jax refuses this variable of the environment: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("message", "blamed"),
    [
        ('Invalid value "foo" for JAX flag jax_transfer_guard', ("JAX_TRANSFER_GUARD", "foo")),
        ("jax.default_device must be passed either ...", ("JAX_DEFAULT_DEVICE", "bar")),
        ("something else", ("JAX_TRANSFER_GUARD, JAX_DEFAULT_DEVICE", "foo, bar")),
    ],
)
def test_the_variable_is_the_one_that_the_message_names(monkeypatch, message, blamed):
    monkeypatch.setattr("os.environ", {"JAX_TRANSFER_GUARD": "foo", "JAX_DEFAULT_DEVICE": "bar", "HOME": "/"})
    assert machine.variable_at_fault(message) == blamed
