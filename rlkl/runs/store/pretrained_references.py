"""Pretrained references: trained once, kept in the store under a hash of all that they depend on, and used again."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlkl import settings
from rlkl.config import machine
from rlkl.config.build import Built
from rlkl.runs.store import checked_files
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.fingerprint import fingerprint
from rlkl.training import blocks, pretraining, spec


@functools.lru_cache(maxsize=blocks.KEPT)
def _program(_: tuple) -> Callable:
    """`pretraining.fit`, jitted for one static part; what it compiles goes with it."""
    return jax.jit(lambda run, text: pretraining.maximum_likelihood(run, text))


def attach(built: Built, faults: Faults) -> Built:
    """The run with its reference trained, or read from the store; its card then says what was trained and how close it came.

    Nothing to do for the task's own reference.
    """
    chosen = built.run.settings
    if chosen.reference.name == "task":
        return built
    text = None if built.card.corpus is None else pretraining.legal_windows(built.card.corpus, built.run.task)
    key = fingerprint(_learned(chosen.reference), _family(chosen.policy), _content(built, text), machine.numeric_environment())
    path = built.store / "references" / f"{key}.npz"
    fit = _program(blocks.static_part((built.run, text)))
    like = jax.eval_shape(fit, built.run, text)
    found = checked_files.read(path, lambda content: _read(content, like), faults)
    if found is None:
        found = jax.tree.map(np.asarray, fit(built.run, text))
        checked_files.write(path, checked_files.packed(jax.tree.leaves(found)), faults)
    facts: dict[str, Any] = {
        "reference": "pretrained",
        "reference_kl": float(found.kl),
        "reference_kl_formula": "KL(task's model‖reference)",
        "reference_hash": key,
    }
    if float(found.stderr) > 0.0:
        facts["reference_kl_stderr"] = float(found.stderr)
    card = dataclasses.replace(built.card, facts=built.card.facts | facts)
    return built._replace(run=spec.make_run(chosen, built.run.task, found.policy), card=card)


def _learned(chosen: settings.ReferenceSettings) -> dict[str, Any]:
    """The settings that decide what is learned; how it moves later on is no part of them."""
    return {key: value for key, value in vars(chosen).items() if key not in ("update", "sync_steps", "mixup_alpha")}


def _family(chosen: settings.PolicySettings) -> dict[str, Any]:
    """The settings of a policy that its pretrained reference depends on."""
    return {key: value for key, value in vars(chosen).items() if key not in ("init", "init_scale", "mean", "scale")}


def _content(built: Built, text) -> str:
    """A hash of the task's model, and of the text that is learned from."""
    digest = hashlib.sha256(built.run.task.automaton.digest.encode())
    for array in (built.run.task.log_reference, *(() if text is None else text.tokens[None])):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read(content: bytes, like: pretraining.Fitted) -> pretraining.Fitted:
    leaves = checked_files.arrays(content)
    checked_files.check_arrays(leaves, jax.tree.leaves(like))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
