"""Rollouts in memory: what is said once a file, and sequences with the log-probabilities of their tokens."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlkl.diagnostics.server_logprobs import MINUS_INFINITY, SLACK
from rlkl.errors import SettingsError, nearest

FORMAT = "rlkl_rollouts"  # the key that holds the version of the format
VERSION = 1
LOG_PROBS = ("log_probs", "sampler_log_probs", "ref_log_probs")
TOKEN_FIELDS = (*LOG_PROBS, "advantages", "tokens")
SEQUENCE_FIELDS = ("reward", "group", "step")
FIELDS = ("tokens", "mask", *LOG_PROBS, "advantages", "reward", "group", "step")
REPORTED = ("raw", "processed")
SAMPLED_FROM = ("policy", "sampler", "reference")


class Header(NamedTuple):
    """What holds for a whole file; None where it is not known.

    temperature, top_p, top_k: of the sampler. reported: whether the sampler's log-probabilities are those of the model (raw) or
    those after temperature, top-p and top-k (processed). sampled_from: whose samples the tokens are; where it is None, the
    sampler's if its log-probabilities are there, else the policy's.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    reported: str | None = None
    vocab_size: int | None = None
    model: str | None = None
    reference: str | None = None
    sampled_from: str | None = None


class Chunk(NamedTuple):
    """Some sequences, one after another in flat arrays: N sequences, M tokens that count. None for a field that is not there.

    lengths: tokens of each sequence. log_probs, sampler_log_probs, ref_log_probs: of the tokens, in nats. group: numbers that
    are equal for sequences of one prompt.
    """

    lengths: Int[np.ndarray, " N"]
    log_probs: Float[np.ndarray, " M"] | None = None
    sampler_log_probs: Float[np.ndarray, " M"] | None = None
    ref_log_probs: Float[np.ndarray, " M"] | None = None
    advantages: Float[np.ndarray, " M"] | None = None
    tokens: Int[np.ndarray, " M"] | None = None
    reward: Float[np.ndarray, " N"] | None = None
    group: Int[np.ndarray, " N"] | None = None
    step: Int[np.ndarray, " N"] | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are there, lengths aside."""
        return tuple(name for name in self._fields[1:] if getattr(self, name) is not None)


def header(values: Mapping[str, Any], source: str) -> Header:
    """The header of a mapping with the format's version; raises `SettingsError` for what the format does not allow."""
    version = values.get(FORMAT)
    if version != VERSION:
        raise SettingsError(f"{source}: {FORMAT}", version, f"this rlkl reads version {VERSION}")
    return checked_header({key: value for key, value in values.items() if key != FORMAT}, source)


def checked_header(values: Mapping[str, Any], source: str) -> Header:
    """The header of a mapping; raises `SettingsError` for an unknown key and for a value that is not allowed."""
    rules = {
        "temperature": (lambda x: 0.0 <= x < np.inf, "must be a number of at least 0"),
        "top_p": (lambda x: 0.0 < x <= 1.0, "must be above 0 and at most 1"),
        "top_k": (lambda x: x >= -1 and int(x) == x, "must be a whole number; 0 and -1 are no limit"),
        "vocab_size": (lambda x: x >= 1 and int(x) == x, "must be a whole number of at least 1"),
    }
    choices = {"reported": REPORTED, "sampled_from": SAMPLED_FROM}
    clean: dict[str, Any] = {}
    for key, value in values.items():
        if key not in Header._fields:
            raise SettingsError(f"{source}: {key}", value, "is no key of the header; " + nearest(key, Header._fields))
        if value is None:
            continue
        if key in rules:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
            if not (is_number and rules[key][0](value)):
                raise SettingsError(f"{source}: {key}", value, rules[key][1])
            value = float(value) if key in ("temperature", "top_p") else int(value)
        elif not isinstance(value, str):
            raise SettingsError(f"{source}: {key}", value, "must be a text")
        elif key in choices and value not in choices[key]:
            raise SettingsError(f"{source}: {key}", value, nearest(value, choices[key]))
        clean[key] = value
    if clean.get("top_k") in (0, -1):
        del clean["top_k"]
    return Header(**clean)


def merged(header: Header, settings: Header, source: str) -> Header:
    """The header with the settings where it says nothing; raises `SettingsError` where the two say different things."""
    for key, value in settings._asdict().items():
        written = getattr(header, key)
        if value is not None and written is not None and value != written:
            raise SettingsError(key, value, f"{source} says {written}")
    return settings._replace(**{key: value for key, value in header._asdict().items() if value is not None})


def group_number(label: Any) -> int:
    """A group's label as a number: itself if it is whole, else the first 63 bits of its text's hash."""
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool) and -(2**63) <= label < 2**63:
        return int(label)
    return int.from_bytes(hashlib.blake2b(str(label).encode(), digest_size=8).digest(), "little") >> 1


def without_masked(lengths: Int[np.ndarray, " N"], mask: np.ndarray | None, arrays: Mapping[str, np.ndarray]) -> Chunk:
    """The chunk of arrays by name, without the tokens at which the mask is 0. lengths: those of the masked sequences."""
    if mask is None:
        return Chunk(lengths, **arrays)
    keep = mask != 0
    counts = np.concatenate([[0], np.cumsum(keep)])
    ends = np.cumsum(lengths)
    kept = {name: values if name in SEQUENCE_FIELDS else values[keep] for name, values in arrays.items()}
    return Chunk(counts[ends] - counts[ends - lengths], **kept)


def checked(chunk: Chunk, header: Header, place: Callable[[int], str]) -> Chunk:
    """The chunk with zero probabilities as minus infinity; raises `SettingsError` for numbers that cannot be.

    place: the file and the place in it of a sequence of the chunk, for messages. Log-probabilities are at most 0, up to
    rounding; rewards and advantages are finite; tokens are below the vocabulary's size. No token that was drawn has
    probability zero.
    """
    if not any(getattr(chunk, name) is not None for name in LOG_PROBS):
        raise SettingsError(place(0), "", f"needs one of {', '.join(LOG_PROBS)}")

    def refuse(wrong: np.ndarray, name: str, rule: str) -> None:
        if wrong.any():
            at = int(wrong.argmax())
            ends = np.cumsum(chunk.lengths)
            sequence = int(np.searchsorted(ends, at, side="right"))
            position = at - int(ends[sequence] - chunk.lengths[sequence])
            value = np.asarray(getattr(chunk, name))[at].item()
            raise SettingsError(f"{place(sequence)}, token {position}: {name}", value, rule)

    changed: dict[str, np.ndarray] = {}
    for name in LOG_PROBS:
        values = getattr(chunk, name)
        if values is None:
            continue
        refuse(np.isnan(values), name, "is not a number")
        refuse(values > SLACK, name, "is above 0, and a log-probability is not")
        zero = values <= MINUS_INFINITY
        if zero.any():
            if name == drawn_by(chunk.fields, header):
                refuse(zero, name, "is minus infinity for a token that was drawn from it")
            changed[name] = np.where(zero, -np.inf, values)
    if chunk.advantages is not None:
        refuse(~np.isfinite(chunk.advantages), "advantages", "is not finite")
    if chunk.reward is not None and not np.isfinite(chunk.reward).all():
        wrong = int((~np.isfinite(chunk.reward)).argmax())
        raise SettingsError(f"{place(wrong)}: reward", float(chunk.reward[wrong]), "is not finite")
    if chunk.tokens is not None:
        refuse(chunk.tokens < 0, "tokens", "is negative")
        if header.vocab_size is not None:
            refuse(chunk.tokens >= header.vocab_size, "tokens", f"is not below vocab_size={header.vocab_size}")
    return chunk._replace(**changed)


def drawn_by(fields: Collection[str], header: Header) -> str:
    """The field with the log-probabilities of the distribution that the tokens were drawn from."""
    names = {"policy": "log_probs", "sampler": "sampler_log_probs", "reference": "ref_log_probs"}
    default = "sampler" if "sampler_log_probs" in fields else "policy"
    return names[header.sampled_from or default]
