"""What a check of TRL's trainers says where TRL is not installed."""

import sys

import pytest

from rlkl.diagnostics.check import trl_trainers
from rlkl.diagnostics.check.worlds import bandit
from rlkl.errors import SettingsError


@pytest.mark.parametrize("library", ["torch", "trl"])
def test_the_extra_to_install_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SettingsError, match=r"needs PyTorch and TRL: pip install 'rlkl\[trl\]'"):
        trl_trainers.first_step("GRPOTrainer", bandit(), 0.1, {})
