"""Compose a config with Hydra, and return it as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rlkl.config.overrides import check_overrides, config_directory, refusal
from rlkl.errors import SettingsError


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose the config that the command would use for these overrides, as plain values without Hydra's own keys.

    Raises `SettingsError` for overrides that Hydra cannot compose and for a value that is missing.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rlkl.config import hydra_private

    if isinstance(overrides, (str, Mapping)):
        raise SettingsError("overrides", overrides, "must be a list of strings, as in ['task=bandit/words', 'seed=1']")
    overrides = list(map(str, overrides))
    check_overrides(overrides)
    try:
        config = hydra_private.compose(config_directory(), "config", overrides)
        return run_config(hydra_private.without_hydra(config, resolve=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise refusal(error, overrides) from error


def from_omegaconf(config: Any) -> dict[str, Any]:
    """Return a run's config from an OmegaConf config, as plain values; raises `SettingsError` for a value that is missing."""
    from omegaconf import OmegaConf

    return run_config(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=False)))


def run_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a composed config that describe the run; raises `SettingsError` for a value that is missing."""
    for key, value in values.items():
        for inner, entry in value.items() if isinstance(value, dict) else ():
            if isinstance(entry, str) and entry == "???":
                raise SettingsError(f"{key}.{inner}", "", "needs a value")
    return {key: value for key, value in values.items() if key not in ("hydra", "experiment")}
