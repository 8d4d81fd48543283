"""Jobs composed from a copy are what Hydra composes, for every shipped config and every kind of override."""

import pytest
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf

from rlkl import composition, settings
from tests.test_config import SHIPPED


@pytest.fixture(scope="module")
def composer():
    version.setbase("1.3")
    setup_globals()
    loader = ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(settings.config_directory())))
    overrides = ["hydra.sweep.dir=here", "hydra.job.chdir=true", "hydra.mode=MULTIRUN", "seed=1,2"]
    return composition.Composer(loader, loader.load_configuration("config", overrides, RunMode.MULTIRUN))


OVERRIDDEN = [
    ["penalty.beta=0.5", "seed=3"],
    ["seed=3", "penalty.beta=0.5", "penalty=forward_kl", "steps=1e3", "log_every=7"],
    ["task=bandit/custom", "task.reward=[0,1]", "task.reference=[0.5,0.5]", "task.names=[a,'b c']"],
    ["experiment=mode_swap", "penalty.beta=2", "tracking.tags=[x]"],
    ["tracking.project='a b'", "tracking.entity=null", "dtype=float32", "resume=false"],
    ["tracking.tags=[$\\{seed\\}]", "seed=4"],
    ["task=plugin", "task.name=x", "+task.bias=0.1"],
    ["~tracking.project", "seed=2"],
    ["engine=submitit", "engine.parameters.timeout_min=5", "+engine.parameters.slurm_partition=gpu"],
    ["engine=submitit", "engine.parameters={timeout_min:7}"],
    ["optimizer.max_grad_norm=1", "penalty=mixed", "penalty.weights=[0.1,0.9]"],
]


@pytest.mark.parametrize("overrides", [*SHIPPED, *OVERRIDDEN], ids=" ".join)
def test_a_job_is_composed_as_hydra_composes_it(composer, overrides):
    given = [*overrides, "batch_size=7"]
    expected = composer._loader.load_sweep_config(composer._master, given)
    found = composer(given)
    assert OmegaConf.to_container(found, resolve=False) == OmegaConf.to_container(expected, resolve=False)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)  # the order of keys, too
    assert found.hydra.job.override_dirname == expected.hydra.job.override_dirname
    values = composer.values(given)
    assert values is None or values == composition.own(expected, resolve=False)
    assert (values is None) == any(character in "".join(given) for character in "+~${")


@pytest.mark.parametrize(
    "overrides", [["penalty.bta=1"], ["penalty=forward"], ["seed.x=1"], ["tsk=bandit/random"], ["+seed=3"]]
)
def test_what_hydra_refuses_is_refused(composer, overrides):
    with pytest.raises(Exception) as expected:
        composer._loader.load_sweep_config(composer._master, overrides)
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
