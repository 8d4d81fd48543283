"""A run's rollouts, added up: the table of its sequences and the totals of its tokens."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from rlkl.diagnostics.diagnose.measures.estimates import Clusters, clusters
from rlkl.diagnostics.diagnose.measures.sequence_sums import TokenValues, sequence_sums, token_values
from rlkl.diagnostics.diagnose.measures.token_totals import TokenTotals
from rlkl.diagnostics.diagnose.reading.chunk import Chunk, Header, drawn_by

DRAWN = {"log_probs": "policy", "sampler_log_probs": "sampler", "ref_log_probs": "reference"}
Further = Callable[[Chunk, TokenValues], dict[str, np.ndarray]]  # returns columns of a chunk's sequences


class Run:
    """The sums of some rollouts that were drawn from one of policy, sampler and reference.

    table: columns of sequences by name (see `sequence_sums`), and their `length`. sampled_from: whose samples the tokens are;
    "sampler" where there is one.
    """

    def __init__(self, header: Header, table: dict[str, np.ndarray], totals: TokenTotals, sampled_from: str):
        self.header, self.table, self.totals, self.sampled_from = header, table, totals, sampled_from

    def has(self, *names: str) -> bool:
        """Whether the table has these columns."""
        return all(name in self.table for name in names)

    @property
    def length(self) -> Float[np.ndarray, " N"]:
        """The number of tokens of each sequence."""
        return self.table["length"]

    @property
    def unit(self) -> str:
        """What the clusters are."""
        return "groups" if self.has("group") else "sequences"

    @cached_property
    def clusters(self) -> Clusters:
        """Sequences of one prompt at one step; each sequence is its own cluster where groups are not known."""
        if not self.has("group"):
            return Clusters(np.arange(len(self.length)), len(self.length))
        if not self.has("step"):
            return clusters(self.table["group"])
        pairs = np.stack([self.table["step"], self.table["group"]], axis=1)
        return Clusters(*_numbered(pairs))

    def part(self, selected: Bool[np.ndarray, " N"]) -> "Run":
        """The selected sequences; the totals of tokens stay those of all."""
        table = {name: column[selected] for name, column in self.table.items()}
        return Run(self.header, table, self.totals, self.sampled_from)


def _numbered(pairs: np.ndarray) -> tuple[np.ndarray, int]:
    unique, index = np.unique(pairs, axis=0, return_inverse=True)
    return index.ravel(), len(unique)


def no_columns(chunk: Chunk, tokens: TokenValues) -> dict[str, np.ndarray]:
    """No further columns."""
    return {}


def collect(
    parts: Iterable[tuple[Header, Iterator[Chunk]]],
    further: Further = no_columns,
) -> list[Run]:
    """The sums of files, one run for each distribution that tokens were drawn from, in one pass.

    further: returns further columns of a chunk's sequences. Columns that one file of a run lacks are left out.
    """
    tables: dict[str, list[dict[str, np.ndarray]]] = {}
    totals: dict[str, TokenTotals] = {}
    headers: dict[str, Header] = {}
    for header, chunks in parts:
        for chunk in chunks:
            source = DRAWN[drawn_by(chunk.fields, header)]
            if source != "sampler":  # ratios to a sampler tell nothing on other tokens than its own
                chunk = chunk._replace(sampler_log_probs=None)
            tokens = token_values(chunk)
            tables.setdefault(source, []).append(sequence_sums(chunk, tokens) | further(chunk, tokens))
            totals.setdefault(source, TokenTotals()).add(chunk, tokens)
            headers.setdefault(source, header)
    return [Run(headers[source], _joined(parts), totals[source], source) for source, parts in tables.items()]


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = set(parts[0]).intersection(*parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name in names}
