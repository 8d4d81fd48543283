"""prime-rl's token export: `token_exports/step_{N}/rank_{R}.jsonl`, written with `enable_token_export`.

Its shape is that of src/prime_rl/trainer/rl/token_export.py (schema_version 1, read in August 2026): an object a sequence,
prompt included, with lists of equal lengths, in which each number belongs to the token at its place; a null stands for not
a number, and advantages are all null without a loss of RL.
`trainer_logprobs` are those of the loss, at the sampler's temperature. `inference_logprobs` are vLLM's, which prime-rl starts
with logprobs_mode=processed_logprobs unless the user says otherwise. The export does not say temperature, top_p and top_k.
Sequences with the same prompt are one group: the tokens before the first one that counts. The empty file STABLE marks a folder
that is complete, and is not read.
"""

from collections.abc import Iterator
from pathlib import Path

from rlkl.diagnostics.diagnose.reading.chunk import Header
from rlkl.diagnostics.diagnose.reading.foreign import field, lists, prompt_label
from rlkl.diagnostics.diagnose.reading.records import Record
from rlkl.diagnostics.json_values import Value
from rlkl.errors import SettingsError

KEYS = {"trainer_logprobs", "inference_logprobs"}
VERSION = 1


def header(first: Value, path: Path, settings: Header) -> Header:
    """What the export says about a run, which is nothing."""
    return Header()


def records(values: Iterator[Value], path: Path) -> Iterator[Record]:
    """The sequences of an export."""
    for where, value in values:
        if field(where, value, "schema_version") != VERSION:
            rule = f"this rlkl reads version {VERSION} of prime-rl's token export"
            raise SettingsError(f"{where}: schema_version", value["schema_version"], rule)
        tokens, mask, trainer, sampler = lists(where, value, "token_ids", "loss_mask", "trainer_logprobs", "inference_logprobs")
        advantages = None if value.get("advantages") is None else lists(where, value, "advantages")[0]
        fields = {
            "tokens": tokens,
            "mask": mask,
            "log_probs": trainer,
            "sampler_log_probs": sampler,
            "advantages": advantages if any(each is not None for each in advantages or []) else None,
            "step": field(where, value, "step"),
            "group": prompt_label(where, tokens, mask),
        }
        yield Record(where, fields)
