"""Hydra's composed config as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rlkl.config.overrides import check_overrides, config_directory, refusal
from rlkl.errors import SettingsError


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The composed config as plain values, as the command would have it (Hydra's own keys left out)."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rlkl.config import hydra_private

    if isinstance(overrides, (str, Mapping)):
        raise SettingsError("overrides", overrides, "must be a list of strings, as in ['task=bandit/words', 'seed=1']")
    overrides = list(map(str, overrides))
    check_overrides(overrides)
    try:
        whole = hydra_private.compose(config_directory(), "config", overrides)
        return complete(hydra_private.own(whole, resolve=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise refusal(error, overrides) from error


def plain(config: Any) -> dict[str, Any]:
    """An OmegaConf config as plain values; raises `SettingsError` for a value that is missing."""
    from omegaconf import OmegaConf

    return complete(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=False)))


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values less the keys that are no run's; raises `SettingsError` for one that is missing."""
    for key, value in values.items():
        for inner, entry in value.items() if isinstance(value, dict) else ():
            if isinstance(entry, str) and entry == "???":
                raise SettingsError(f"{key}.{inner}", "", "needs a value")
    return {key: value for key, value in values.items() if key not in ("hydra", "experiment")}
