"""Balanced brackets: a string is valid if each bracket is opened before it is closed, and all are closed."""

from rlkl.errors import SettingsError
from rlkl.tasks import state_graph
from rlkl.tasks.checks import choice, whole
from rlkl.tasks.registry import Card, register

BROKEN = (-1, 0)


@register("sequence/brackets")
def brackets(reward="validity", horizon=12, typicality=0.0) -> Card:
    """Strings of ( and ), equally likely under the reference. Rewards: validity (1 for a balanced string, so that as beta falls
    the optimum becomes the reference restricted to balanced strings) or depth (nesting depth of a balanced string, scaled to 1
    at most)."""
    kind, horizon = choice("task.reward", reward, ("validity", "depth")), whole("task.horizon", horizon, at_least=2)
    if horizon % 2:
        raise SettingsError("task.horizon", horizon, "must be even: no string of odd length is balanced")
    deepest = horizon // 2

    def step(state: tuple[int, int], token: str) -> tuple[int, int]:
        depth, most = state
        after = depth + (1 if token == "(" else -1)
        return BROKEN if state == BROKEN or not 0 <= after <= deepest else (after, max(most, after))

    def reward_of(state: tuple[int, int]) -> float:
        if state == BROKEN or state[0] != 0:
            return 0.0
        return 1.0 if kind == "validity" else state[1] / deepest

    return state_graph.card(
        lambda state: {token: (step(state, token), 1.0) for token in "()"},
        (0, 0),
        ("(", ")"),
        horizon,
        reward=reward_of,
        name=lambda state: "broken" if state == BROKEN else f"{state[0]} open, depth {state[1]}",
        typicality=typicality,
        joiner="",
    )
