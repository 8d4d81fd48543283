"""Strings of letters with a reward of 1 for those that contain a motif."""

from rlkl.errors import SettingsError
from rlkl.tasks import state_graph
from rlkl.tasks.checks import whole
from rlkl.tasks.registry import Card, register

LETTERS = "abcdefgh"


def suffix(read: str, motifs: tuple[str, ...]) -> str:
    """The longest suffix of `read` that begins a motif: the state of Aho and Corasick's automaton (CACM 18, 1975)."""
    suffixes = (read[i:] for i in range(len(read) + 1))
    return next(ending for ending in suffixes if any(motif.startswith(ending) for motif in motifs))


@register("sequence/motif")
def motif(motifs=("abc", "cfe", "hgfh"), horizon=16, typicality=0.0) -> Card:
    """Strings of `horizon` letters out of 8 with reference probability proportional to 1/rank; reward 1 for a string that
    contains any of the motifs. The motif completed first names the outcome. The reference probabilities of the three default
    motifs lie at least a factor of ten apart."""
    is_list = isinstance(motifs, (list, tuple)) and len(motifs) > 0
    if not is_list or not all(isinstance(m, str) and m and set(m) <= set(LETTERS) for m in motifs):
        raise SettingsError("task.motifs", motifs, f"must be a list of words of the letters {LETTERS}, as in [abc,hgh]")
    targets, horizon = tuple(motifs), whole("task.horizon", horizon, at_least=1)
    if min(map(len, targets)) > horizon:
        raise SettingsError("task.horizon", horizon, "is too short for every motif: no reward could be reached")
    share = {letter: 1.0 / rank for rank, letter in enumerate(LETTERS, start=1)}

    def next_state(state: tuple[str, bool], letter: str) -> tuple[str, bool]:
        read, complete = state
        if complete:
            return state
        whole_motif = next((m for m in targets if (read + letter).endswith(m)), None)
        return (suffix(read + letter, targets), False) if whole_motif is None else (whole_motif, True)

    def rows(state: tuple[str, bool]) -> state_graph.Row:
        return {letter: (next_state(state, letter), weight) for letter, weight in share.items()}

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
