"""What is exported is read back by `automaton/custom` as the same task."""

import inspect
import json

import numpy as np
import pytest

from rlkl import tasks
from rlkl.errors import SettingsError
from rlkl.tasks.transforms import export

NEEDS_NOTHING = sorted(name for name in tasks.REGISTRY if inspect.Parameter.empty not in tasks.options(name).values())
SHIPPED = [
    *((name, {}) for name in NEEDS_NOTHING),
    ("bandit/custom", {"reward": [0, 1, 0.5], "reference": [0.7, 0.0, 0.3], "names": ["0", "0'", "ü"]}),
    ("sequence/grammar", {"reward": "length"}),
    ("sequence/text", {"order": 1, "size": 6, "horizon": 4, "smoothing": 0, "pattern": "tie"}),
    ("sequence/text", {"unit": "word", "order": 1, "size": 5, "horizon": 3, "pattern": "is the"}),
]


def read_back(card: tasks.Card, folder) -> tasks.Card:
    (folder / "task.json").write_text(export(card))
    return tasks.build("automaton/custom", path=str(folder / "task.json"))


@pytest.mark.parametrize(("name", "options"), SHIPPED, ids=str)
def test_a_shipped_task_comes_back_the_same(name, options, tmp_path):
    card = tasks.build(name, **options)
    again = read_back(card, tmp_path)
    automaton = card.task.automaton
    assert again.task.automaton == automaton
    np.testing.assert_allclose(again.task.log_reference, card.task.log_reference, rtol=1e-15, atol=1e-15)
    ends = automaton.outcomes
    np.testing.assert_array_equal(again.task.reward[ends], card.task.reward[ends])
    assert not np.delete(again.task.reward, ends).any()
    assert again.outcomes == card.outcomes
    assert again.prompts == card.prompts
    assert again.tokens == (card.tokens or (tuple(map(str, range(automaton.vocabulary))) if card.prompts else card.outcomes))


def test_a_start_and_illegal_tokens_come_back(tmp_path):
    given = {
        "vocabulary": ["a", "b", "c"], "horizon": 2, "start": 1, "next_state": [[1, -1, 2], [0, 1, -1]],
        "reference": [[0.25, 0, 0.75], [0.125, 0.875, 0]], "reward": [0.5, -1.0, 2.0], "states": ["x", "1", "z"],
    }  # fmt: skip
    (tmp_path / "given.json").write_text(json.dumps(given))
    card = tasks.build("automaton/custom", path=str(tmp_path / "given.json"))
    np.testing.assert_allclose(json.loads(export(card))["reference"], given["reference"], rtol=1e-15)
    assert json.loads(export(card)) == given | {"reference": json.loads(export(card))["reference"]}


def test_other_states_than_outcomes_have_names_of_their_own():
    names = json.loads(export(tasks.build("bandit/custom", reward=[0, 1], reference=[0.5, 0.5], names=["0", "0'"])))["states"]
    assert names == ["0''", "0", "0'"]
    names = json.loads(export(tasks.build("sequence/grammar")))["states"]
    assert len(set(names)) == len(names)


def test_rewards_of_states_that_end_nothing_are_dropped(tmp_path):
    """Which `automaton/custom` would refuse: brackets' start is balanced, and no string ends in depth 0 at an odd horizon."""
    card = tasks.build("sequence/brackets", horizon=4)
    lost = np.setdiff1d(np.flatnonzero(card.task.reward), card.task.automaton.outcomes)
    assert lost.size
    assert not read_back(card, tmp_path).task.reward[lost].any()


def test_a_typicality_reward_is_refused():
    with pytest.raises(SettingsError) as refused:
        export(tasks.build("bandit/two_modes", typicality=0.1))
    assert refused.value.key == "task.export"
    assert "task.typicality=0.1" in str(refused.value)
