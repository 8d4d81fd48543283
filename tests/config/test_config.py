"""Every shipped config composes, builds and takes a step; settings are declared once and checked."""

import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from rlkl import algorithms, divergences, policies, settings, tasks
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.errors import SettingsError
from rlkl.policies import base
from rlkl.rollouts import batch, scoring
from rlkl.training import loop, observe
from rlkl.training.programs import result_structure
from tests.helpers import CHAIN, CONFIGS, OPTIONAL, SHIPPED, choices


def extra(overrides):
    if overrides == ["task=bandit/custom"]:
        return ["task.reward=[0,1]", "task.reference=[0.5,0.5]"]
    if overrides == ["task=automaton/custom"]:
        return [f"task.path={CHAIN}"]
    if overrides == ["policy=gaussian"]:
        return ["task=bandit/bimodal"]  # arms closer together than the default scale
    if overrides == ["algorithm=dpo"]:
        return ["task=preference/words"]
    if overrides == ["task=preference/brackets"]:
        return ["task.fit_steps=5"]
    if overrides == ["reward_shaping=mara"]:
        return ["reward_shaping.threshold=0.5"]
    if overrides == ["reward_shaping=typicality"]:
        return ["reward_shaping.weight=0.5"]
    if overrides in (["reward_shaping=smoothing"], ["reward_shaping=unlikeliness"]):
        return ["reward_shaping.weight=0.5", "task=bandit/prompts", "algorithm=rloo"]
    group, _, choice = overrides[0].partition("=")
    if group == "penalty" and yaml.safe_load((CONFIGS / group / f"{choice}.yaml").read_text()).get("estimator"):
        return ["algorithm=rloo"]  # an estimator by name is a sampled algorithm's
    return []


@functools.cache
def built_from(override: str):
    """The run of a shipped config, for the tests that read it one after the other."""
    return build(compose([override, *extra([override])]))


@jax.jit
def stepped(run, state):
    """One program for the configs that differ in numbers alone."""
    optimum, row = observe.prepare(run, state)
    after = loop.step(base.cast(run, run.settings.dtype), state)
    few = run.task.automaton.is_enumerable
    listed = jax.tree.map(jnp.asarray, batch.enumerate_all(run.task.automaton)) if few else None
    total = None if listed is None else jnp.sum(jnp.exp(scoring.log_probability(after.policy, listed)))
    return (optimum, row, state), after.step, total


@pytest.mark.parametrize("overrides", SHIPPED, ids=lambda o: o[0])
def test_every_shipped_config_is_composed_built_and_stepped(overrides):
    run = built_from(*overrides).run
    results, step, total = stepped(run, jax.jit(loop.start)(run))
    structure = jax.tree.structure(results)
    assert step == 1
    assert result_structure.from_json(json.loads(json.dumps(result_structure.to_json(structure)))) == structure
    assert (total is None) == (not run.task.automaton.is_enumerable)
    if total is not None:
        np.testing.assert_allclose(total, run.task.automaton.prompts, rtol=1e-5)
    assert np.isfinite(results[0].objective)


@pytest.mark.parametrize("overrides", SHIPPED, ids=lambda o: o[0])
def test_nothing_that_is_needed_is_left_unresolved(overrides):
    built = built_from(*overrides)
    chosen = built.run.settings
    unset = {
        f"{group}.{key}" for group in settings.GROUPS for key, value in vars(getattr(chosen, group)).items() if value is None
    }
    unset |= {key for key, value in vars(chosen).items() if value is None}
    assert unset <= {"batch_size", *OPTIONAL}
    assert (chosen.batch_size is None) == (chosen.algorithm.name in algorithms.EXACT)
    assert build(built.resolved).run.settings == chosen  # the resolved config is the same run


def test_every_key_of_the_configs_is_declared_and_every_task_has_its_config():
    declared = settings.known_keys()
    for path in CONFIGS.rglob("*.yaml"):
        group = path.relative_to(CONFIGS).parts[0]
        if group in ("policy", "algorithm", "penalty", "optimizer", "tracking", "reward_shaping"):
            assert {f"{group}.{key}" for key in yaml.safe_load(path.read_text()) if key != "defaults"} <= declared
    for name in tasks.REGISTRY:
        shipped = yaml.safe_load((CONFIGS / "task" / f"{name}.yaml").read_text())
        defaults = tasks.options(name)
        assert shipped.pop("name") == name
        assert shipped.pop("export") is None  # of every task alike
        if shipped.pop("defaults", None):  # whose other groups bring what is not written here
            defaults.pop("base")
        assert set(shipped) == set(defaults)
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
        assert all(value == plain[key] for key, value in shipped.items() if value != "???")
    for name, family in policies.REGISTRY.items():
        assert yaml.safe_load((CONFIGS / "policy" / f"{name}.yaml").read_text())["name"] == name
        assert family.inits
    preset = {compose([f"penalty={name}"])["penalty"]["divergence"] for name in choices("penalty")}
    assert preset == {*divergences.REGISTRY, "none"}


GROUPS = {**settings.GROUPS, "tracking": settings.Tracking, "engine": settings.Engine}
CHOICES = [(group, choice) for group in GROUPS for choice in choices(group)]
OTHER_VALUES = {"optimizer=sgd": {"learning_rate"}, "penalty=none": {"beta"}, "engine=submitit": {"parameters"}}


def stated(group, choice):
    """What a choice's file states, and the name of the choice that it extends."""
    values = yaml.safe_load((CONFIGS / group / f"{choice}.yaml").read_text())
    extended, *rest = values.pop("defaults", [None])
    assert rest == (["_self_"] if extended else [])
    return values, extended


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_states_what_differs_from_the_choice_that_it_extends(group, choice):
    values, extended = stated(group, choice)
    base = stated(group, extended)[0] if extended else {}
    shared = [key for key in values if key in base]
    assert not [key for key in shared if values[key] == base[key]]
    assert shared == [key for key in base if key in values]  # in the same order


OWN_DEFAULTS = [pair for pair in CHOICES if not stated(*pair)[0].get("estimator")]  # not those of another library


@pytest.mark.parametrize(("group", "choice"), OWN_DEFAULTS)
def test_the_configs_and_the_settings_state_the_same_defaults(group, choice):
    values, _ = stated(group, choice)
    defaults = GROUPS[group]()
    checked = settings.from_mapping(GROUPS[group], {key: value for key, value in values.items() if value != "???"})
    other = {key for key in values if getattr(checked, key) != getattr(defaults, key)}
    assert other <= {"name", "divergence"} | OTHER_VALUES.get(f"{group}={choice}", set())


def test_the_default_config_is_the_default_settings():
    config = compose()
    for group, cls in GROUPS.items():
        assert settings.from_mapping(cls, config[group]) == cls()
    for cls in (settings.Settings, settings.Execution):
        assert settings.from_mapping(cls, {key: config[key] for key in vars(cls()) if key not in GROUPS}) == cls()


BAD = [
    (["penalty.beta=0"], "penalty.beta", "above 0"),
    (["penalty.beta=-0.1"], "penalty.beta", "above 0"),
    (["penalty.beta=nan"], "penalty.beta", "finite"),
    (["penalty.beta=abc"], "penalty.beta", "a number"),
    (["penalty=none", "penalty.beta=0.1"], "penalty.beta", "must be 0"),
    (["penalty.divergence=pearsn"], "penalty.divergence", "did you mean 'pearson'"),
    (["penalty=root_pearson", "algorithm=rloo", "penalty.estimator=score"], "penalty.estimator", "is a mean over samples"),
    (["penalty=root_pearson", "task=sequence/motif", "task.horizon=24"], "penalty.divergence", "root of a mean over"),
    (["penalty.placement=los"], "penalty.placement", "did you mean 'loss'"),
    (["algorithm.name=pppo"], "algorithm.name", "did you mean 'ppo'"),
    (["optimizer.name=adm"], "optimizer.name", "did you mean 'adam'"),
    (["optimizer.learning_rate=0"], "optimizer.learning_rate", "above 0"),
    (["optimizer.decay=1.5"], "optimizer.decay", "at most 1"),
    (["optimizer.max_grad_norm=-1"], "optimizer.max_grad_norm", "above 0"),
    (["policy.init=refrence"], "policy.init", "reference, uniform, random"),
    (["policy=gaussian", "policy.init=uniform"], "policy.init", "given"),
    (["policy=gaussian", "policy.scale=0.1"], "policy.scale", "one spacing"),
    (["policy.support=none"], "policy.support", "allowed"),
    (["steps=0"], "steps", "at least 1"),
    (["steps=1.5"], "steps", "whole number"),
    (["batch_size=1", "algorithm=rloo"], "batch_size", "at least 2"),
    (["seed=-1"], "seed", "at least 0"),
    (["seed=4294967296"], "seed", "below"),
    (["dtype=float16"], "dtype", "did you mean 'bfloat16'"),
    (["+penalty.bta=1"], "penalty.bta", "did you mean 'beta'"),
    (["+sed=1"], "sed", "did you mean 'seed'"),
    (["plugins=[nowhere.py]"], "plugins", "no such file"),
    (["plugins=nowhere.py"], "plugins", "list"),
    (["task=bandit/custom"], "task.reward", "needs a value"),
    (["task=plugin"], "task.name", "needs a value"),
    (["tracking.tags=abc"], "tracking.tags", "list"),
    (
        ["task=bandit/custom", "task.reward=[0,1,2]", "task.reference=[.5,.5,0]", "policy.support=all"],
        "policy.support",
        "infinite off",
    ),
]


@pytest.mark.parametrize(("overrides", "key", "says"), BAD, ids=lambda value: str(value)[:60])
def test_bad_settings_are_refused_with_the_key_and_what_is_allowed(overrides, key, says):
    with pytest.raises(SettingsError) as refused:
        build(compose(overrides))
    assert refused.value.key == key
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_plugin_with_a_wrong_divergence_is_a_bad_setting(tmp_path):
    lines = ("from rlkl.divergences import register", "@register('wrong', zero=1.0, infinity=1.0)", "def wrong(u, params):")
    (tmp_path / "wrong.py").write_text("\n".join([*lines, "    return u * u, 3 * u", ""]))
    with pytest.raises(SettingsError, match="divergence 'wrong': slope must be df/dt"):
        build(compose([f"plugins=[{tmp_path / 'wrong.py'}]"]))
    assert "wrong" not in divergences.REGISTRY


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task=bandit/nope"], "did you mean|allowed"),
        (["penalty.bta=1"], "did you mean 'penalty.beta'"),
        ("task=bandit/words", "must be a list of strings"),
        (["penalty.beta=0.1,0.2"], "add -m"),
        (["task.path=~/x.txt"], "quote it"),
        (["plto"], "no command"),
    ],
)
def test_what_hydra_refuses_is_said_in_one_line_from_python_too(overrides, says):
    with pytest.raises(SettingsError, match=says) as refused:
        compose(overrides)
    assert "\n" not in str(refused.value)


def test_a_plugin_that_fails_is_a_bad_setting(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("1/0\n")
    with pytest.raises(SettingsError, match="ZeroDivisionError"):
        build(compose([f"plugins=[{broken}]"]))


@pytest.mark.parametrize(
    ("algorithm", "name"), list(itertools.product(("exact", "rloo"), ("reverse_kl", "forward_kl", "pearson")))
)
def test_what_is_unset_depends_on_the_algorithm_and_the_divergence(algorithm, name):
    chosen = build(compose([f"algorithm={algorithm}", f"penalty={name}"])).run.settings
    assert chosen.dtype == ("float64" if algorithm == "exact" else "float32")
    assert (chosen.penalty.estimator, chosen.penalty.placement) == (("exact" if algorithm == "exact" else "full"), "loss")
    assert chosen.policy.support == ("all" if name == "forward_kl" else "reference")


def test_the_package_ships_what_the_clone_has():
    assert Path(CONFIGS / "config.yaml").is_file()
