"""Penalties that copy another library, with the settings that they go with."""

from rlkl.config.overrides import choices, config_directory
from rlkl.errors import SettingsError, nearest

GOES_WITH = "# Goes with: "


def preset_overrides(name: str) -> list[str]:
    """The overrides of a shipped penalty, and of the algorithm that its file says it goes with; raises `SettingsError`."""
    names = choices()["penalty"]
    if name == "none" or name not in names:
        raise SettingsError("library", name, nearest(name, [each for each in names if each != "none"]))
    text = (config_directory() / "penalty" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.removeprefix(GOES_WITH) for line in text.splitlines() if line.startswith(GOES_WITH)]
    return [f"penalty={name}", *(override for line in lines for override in line.split())]
