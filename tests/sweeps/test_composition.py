"""Jobs composed from a copy are what Hydra composes, for every shipped config and every kind of override; and a caller's own
Hydra stays as it was."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import hydra
import pytest
from hydra import version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf

from rlkl.config import hydra_private
from rlkl.config.compose import compose
from rlkl.errors import SettingsError
from rlkl.sweeps import launcher
from tests.helpers import SHIPPED

OVERRIDDEN = [
    ["penalty.beta=0.5", "seed=3"],
    ["seed=3", "penalty.beta=0.5", "penalty=forward_kl", "steps=1e3", "log_every=7"],
    ["task=bandit/custom", "task.reward=[0,1]", "task.reference=[0.5,0.5]", "task.names=[a,'b c']"],
    ["experiment=mode_swap", "penalty.beta=2", "tracking.tags=[x]"],
    ["tracking.project='a b'", "tracking.entity=null", "dtype=float32", "resume=false"],
    ["tracking.tags=[$\\{seed\\}]", "seed=4"],
    ["task=plugin", "task.name=x", "+task.bias=0.1"],
    ["~tracking.tags", "seed=2"],
    ["engine=submitit", "engine.parameters.timeout_min=5", "+engine.parameters.slurm_partition=gpu"],
    ["engine=submitit", "engine.parameters={timeout_min:7}"],
    ["optimizer.max_grad_norm=1", "penalty=mixed", "penalty.weights=[0.1,0.9]"],
]


# One choice of each group, and those that choose for other groups; the rest are composed in the same way.
QUICK = {group: [f"{group}={choice}"] for (text,) in SHIPPED for group, choice in [text.split("=")]}.values()
CHOSEN = [
    each if each in QUICK or each[0].startswith("experiment=") else pytest.param(each, marks=pytest.mark.slow)
    for each in SHIPPED
]


@pytest.mark.parametrize("overrides", [*CHOSEN, *OVERRIDDEN], ids=" ".join)
def test_a_job_is_composed_as_hydra_composes_it(composer, overrides):
    given = [*overrides, "batch_size=7"]
    expected = composer.loader.load_sweep_config(composer.master, given)
    found = composer(given)
    assert OmegaConf.to_container(found, resolve=False) == OmegaConf.to_container(expected, resolve=False)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)  # the order of keys, too
    assert found.hydra.job.override_dirname == expected.hydra.job.override_dirname
    values = composer.values(given)
    assert values is None or values == hydra_private.without_hydra(expected, resolve=False)
    assert (values is None) == any(character in "".join(given) for character in "+~${")


@pytest.mark.parametrize(
    "overrides", [["penalty.bta=1"], ["penalty=forward"], ["seed.x=1"], ["tsk=bandit/random"], ["+seed=3"]]
)
def test_what_hydra_refuses_is_refused(composer, overrides):
    with pytest.raises(Exception) as expected:
        composer.loader.load_sweep_config(composer.master, overrides)
    with pytest.raises(type(expected.value)) as found:
        composer(overrides)
    assert str(found.value) == str(expected.value)
    assert composer.values(overrides[:0]) is not None


def test_jobs_do_not_share_what_one_of_them_changes(composer):
    first = composer(["seed=3", "tracking.tags=[a]"])
    first.tracking.tags.append("b")
    values = composer.values(["seed=3"])
    assert values is not None
    values["penalty"]["beta"] = -1
    assert composer(["seed=3"]).tracking.tags == []
    assert composer.values(["seed=3"])["penalty"]["beta"] == 0.1


def test_a_user_s_own_penalty_may_extend_a_shipped_one_or_list_every_key(tmp_path):
    (tmp_path / "penalty").mkdir()
    (tmp_path / "penalty" / "extends.yaml").write_text("defaults: [trl_grpo, _self_]\nbeta: 0.3\n")
    shipped = compose(["penalty=trl_grpo"])["penalty"]
    (tmp_path / "penalty" / "lists.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(shipped | {"beta": 0.3})))
    for name in ("extends", "lists"):
        own = compose([f"hydra.searchpath=[file://{tmp_path}]", f"penalty={name}"])["penalty"]
        assert own == shipped | {"beta": 0.3}


MAIN = """
import sys
import hydra, rlkl
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

@dataclass
class Config:
    seed: str = "theirs"
    beta: float = 0.5

ConfigStore.instance().store(name="config", node=Config)
OmegaConf.register_new_resolver("theirs", lambda: "kept")

def state():
    runtime, base = HydraConfig.get(), hydra.version.getbase()
    known = {kind: id(each) for kind, each in Singleton._instances.items()}
    return OmegaConf.to_container(runtime, resolve=False), base, known, dict(BaseContainer._resolvers), list(sys.path)

@hydra.main(version_base=BASE, config_name="config")
def main(theirs):
    before = state()
    run = ["task=bandit/custom", "task.reward=[0,1]", "task.reference=[0.5,0.5]", "steps=2", f"penalty.beta={theirs.beta}"]
    print(rlkl.train(run).summary["beta"])
    try:
        rlkl.train(["penalty=nonsense"])
    except rlkl.errors.SettingsError as error:
        print(error.key)
    assert state() == before
    assert OmegaConf.create({"a": "${theirs:}"}).a == "kept"
    assert hydra.compose("config", ["seed=1"]).seed == "1"

main()
"""


@pytest.mark.parametrize("base", ["1.1", pytest.param("1.3", marks=pytest.mark.slow)])
def test_a_program_of_hydra_s_trains_and_keeps_its_hydra(tmp_path, cache, base):
    (tmp_path / "main.py").write_text(MAIN.replace("BASE", repr(base)))
    code = [sys.executable, "-W", "ignore", "main.py", "hydra.job.chdir=false", "beta=0.25"]
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(cache / "rlkl" / "jax"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(code, cwd=tmp_path, env={**os.environ, **compiled}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["0.25", "penalty"]  # after what jax logs


def test_threads_compose_beside_a_notebook_s_hydra(tmp_path):
    (tmp_path / "theirs.yaml").write_text("seed: theirs\n")
    alone = compose(["task=bandit/random"])

    def composed(seed: int):
        if seed % 2:
            with pytest.raises(SettingsError, match="penalty='nonsense'"):
                compose(["penalty=nonsense", f"seed={seed}"])
            return alone | {"seed": seed}
        return compose([f"seed={seed}", "task=bandit/random"])

    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
        theirs, base = GlobalHydra.instance().hydra, version.getbase()
        known = dict(Singleton._instances)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(composed, range(8))) == [alone | {"seed": seed} for seed in range(8)]
        assert GlobalHydra.instance().hydra is theirs
        assert version.getbase() == base
        assert all(Singleton._instances[kind] is each for kind, each in known.items())
        assert hydra.compose("theirs").seed == "theirs"


def test_composing_registers_no_resolver(monkeypatch):
    """Hydra's `now` would take the place of the caller's own."""
    monkeypatch.setattr("omegaconf.basecontainer.BaseContainer._resolvers", {})
    OmegaConf.register_new_resolver("now", lambda: 7)
    assert compose(["seed=${now:}"])["seed"] == 7
    assert OmegaConf.has_resolver("now")
    assert not OmegaConf.has_resolver("hydra")


def test_jobs_write_what_hydra_writes(tmp_path):
    """Read back, text that YAML must quote, long, in other scripts, or an interpolation: the same from both writers."""
    texts = [
        "yes",
        "1e3",
        "07",
        "null",
        "",
        " a",
        "a: b",
        "- c",
        "two\nlines\n",
        "π‖π_ref",
        "${a.b}",
        "word " * 60,
        "#",
        "'",
        '"',
    ]
    config = OmegaConf.create({"a": {"b": 1, "c": None, "d": [True, 0.1, 1e-12, float("inf")]}, "texts": texts})
    launcher.save_config(config, "config.yaml", tmp_path / "new")
    written = (tmp_path / "new" / "config.yaml").read_text(encoding="utf-8")
    assert OmegaConf.create(written) == OmegaConf.create(OmegaConf.to_yaml(config)) == config
