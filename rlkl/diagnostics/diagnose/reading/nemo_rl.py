"""NeMo-RL's `train_data_step{N}.jsonl`, which GRPO writes into its log folder.

Its shape is that of nemo_rl/algorithms/grpo.py and nemo_rl/utils/logger.py (read in August 2026): a line a sequence, each value
a list with one entry, because the logger writes slices of one sequence: `token_ids` [1, T], `token_loss_mask` [1, T],
`sample_loss_mask` [1], `advantages` [1, T], `generation_logprobs` [1, T], `prev_logprobs` [1, T], `rewards` [1]. Sequences
include the prompt and are padded on the right; a log-probability belongs to the token at its place. A line with a whole batch
is read in the same way. Files of releases that wrote no `token_loss_mask` are refused: they cannot tell a prompt.

`prev_logprobs` are the trainer's at the time of the update. With force_on_policy_ratio NeMo-RL computes none and writes zeros:
a file whose first sequence has only zeros is read without them. With dynamic sampling `rewards` are those before the filter,
and `filtered_rewards` those of the lines. The step is in the file's name.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlkl.diagnostics.diagnose.reading.chunk import Header
from rlkl.diagnostics.diagnose.reading.foreign import field, lists, prompt_label
from rlkl.diagnostics.diagnose.reading.records import Record
from rlkl.diagnostics.json_values import Value
from rlkl.errors import SettingsError

KEYS = {"generation_logprobs", "prev_logprobs", "token_loss_mask"}
PER_TOKEN = ("token_ids", "token_loss_mask", "advantages", "generation_logprobs", "prev_logprobs")


def header(first: Value, path: Path, settings: Header) -> Header:
    """What the file says about a run, which is nothing."""
    return Header()


def records(values: Iterator[Value], path: Path) -> Iterator[Record]:
    """The sequences of a file, without those that `sample_loss_mask` leaves out."""
    step = re.search(r"step_?(\d+)", path.stem)
    in_all = {"step": int(step[1])} if step else {}
    has_prev: bool | None = None
    for where, value in values:
        for fields, keep in _sequences(where, value):
            if has_prev is None:
                has_prev = any(fields["log_probs"])
            if not keep:
                continue
            if not has_prev:
                del fields["log_probs"]
            yield Record(where, fields | in_all)


def _sequences(where: str, value: Any) -> Iterator[tuple[dict[str, Any], bool]]:
    """The fields of each sequence of a line, and whether it is in the loss."""
    columns = lists(where, value, *PER_TOKEN)
    rewards = field(where, value, "filtered_rewards" if "filtered_rewards" in value else "rewards")
    samples = value.get("sample_loss_mask")
    if not isinstance(columns[0][0] if columns[0] else None, list):  # a sequence that stands for itself
        columns, rewards, samples = [[column] for column in columns], [rewards], None if samples is None else [samples]
    samples = [1] * len(columns[0]) if samples is None else samples
    for name, column in zip((*PER_TOKEN, "rewards", "sample_loss_mask"), (*columns, rewards, samples), strict=True):
        if not isinstance(column, list) or len(column) != len(columns[0]):
            raise SettingsError(f"{where}: {name}", "", f"must have {len(columns[0])} entries, one a sequence")
    for tokens, mask, advantages, sampler, trainer, reward, sample in zip(*columns, rewards, samples, strict=True):
        for name, each in zip(PER_TOKEN, (tokens, mask, advantages, sampler, trainer), strict=True):
            if not isinstance(each, list):
                raise SettingsError(f"{where}: {name}", each, "must be a list with an entry for each token")
        fields = {
            "tokens": tokens,
            "mask": mask,
            "log_probs": trainer,
            "sampler_log_probs": sampler,
            "advantages": advantages,
            "reward": reward,
            "group": prompt_label(where, tokens, mask),
        }
        yield fields, bool(sample)
