"""Strings of letters, rewarded for any one of a few motifs anywhere in them."""

from rlkl.errors import SettingsError
from rlkl.tasks import state_graph
from rlkl.tasks.checks import whole
from rlkl.tasks.registry import Card, register

LETTERS = "abcdefgh"


def suffix(read: str, motifs: tuple[str, ...]) -> str:
    """The longest end of `read` that begins a motif: the state of Aho and Corasick's automaton (CACM 18, 1975)."""
    ends = (read[i:] for i in range(len(read) + 1))
    return next(end for end in ends if any(motif.startswith(end) for motif in motifs))


@register("sequence/motif")
def motif(motifs=("abc", "cfe", "hgfh"), horizon=16, typicality=0.0) -> Card:
    """8 letters whose reference falls as 1/rank, 16 of them; reward 1 for any of the motifs anywhere. The first one that
    is found names the outcome; the default three have reference probabilities at least ten times apart."""
    listed = isinstance(motifs, (list, tuple)) and len(motifs) > 0
    if not listed or not all(isinstance(m, str) and m and set(m) <= set(LETTERS) for m in motifs):
        raise SettingsError("task.motifs", motifs, f"must be a list of words of the letters {LETTERS}, as in [abc,hgh]")
    wanted, horizon = tuple(motifs), whole("task.horizon", horizon, at_least=1)
    if min(map(len, wanted)) > horizon:
        raise SettingsError("task.horizon", horizon, "is too short for every motif: no reward could be reached")
    share = {letter: 1.0 / rank for rank, letter in enumerate(LETTERS, start=1)}

    def after(state: tuple[str, bool], letter: str) -> tuple[str, bool]:
        read, found = state
        if found:
            return state
        whole_motif = next((m for m in wanted if (read + letter).endswith(m)), None)
        return (suffix(read + letter, wanted), False) if whole_motif is None else (whole_motif, True)

    def rows(state: tuple[str, bool]) -> state_graph.Row:
        return {letter: (after(state, letter), weight) for letter, weight in share.items()}

    return state_graph.card(
        rows,
        ("", False),
        tuple(LETTERS),
        horizon,
        reward=lambda state: float(state[1]),
        name=lambda state: state[0] if state[1] else f"none, ends in {state[0] or 'nothing'}",
        typicality=typicality,
        joiner="",
    )
