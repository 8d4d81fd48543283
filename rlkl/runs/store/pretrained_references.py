"""Pretrain references, keep them in the store under a hash of all that they depend on, and reuse them."""

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
from rlkl.runs.folder.files import pack_arrays
from rlkl.runs.store import checked_files
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.fingerprint import fingerprint
from rlkl.training import blocks, pretraining, spec


@functools.lru_cache(maxsize=blocks.CACHED)
def _program(_: tuple) -> Callable:
    """Return `pretraining.maximum_likelihood`, jitted for arguments of one static part; eviction frees what it compiled."""
    return jax.jit(lambda run, text: pretraining.maximum_likelihood(run, text))


def attach(built: Built, faults: Faults) -> Built:
    """Replace the run's reference by its pretrained one, trained or read from the store, and describe it on the run's card.

    A run whose reference is the task's own is returned as it is.
    """
    run_settings = built.run.settings
    if run_settings.reference.name == "task":
        return built
    text = None if built.card.corpus is None else pretraining.legal_windows(built.card.corpus, built.run.task)
    learning, family = _learning_settings(run_settings.reference), _family_settings(run_settings.policy)
    key = fingerprint(learning, family, _task_digest(built, text), machine.numeric_environment())
    path = built.store / "references" / f"{key}.npz"
    fit = _program(blocks.static_part((built.run, text)))
    like = jax.eval_shape(fit, built.run, text)
    fitted = checked_files.read(path, lambda content: _read(content, like), faults)
    if fitted is None:
        fitted = jax.tree.map(np.asarray, fit(built.run, text))
        checked_files.write(path, pack_arrays(jax.tree.leaves(fitted)), faults)
    facts: dict[str, Any] = {
        "reference": "pretrained",
        "reference_kl": float(fitted.kl),
        "reference_kl_formula": "KL(task's model‖reference)",
        "reference_hash": key,
    }
    if float(fitted.stderr) > 0.0:
        facts["reference_kl_stderr"] = float(fitted.stderr)
    card = dataclasses.replace(built.card, facts=built.card.facts | facts)
    return built._replace(run=spec.make_run(run_settings, built.run.task, fitted.policy), card=card)


def _learning_settings(reference: settings.ReferenceSettings) -> dict[str, Any]:
    """Return the reference's settings without those of its later updates."""
    return {key: value for key, value in vars(reference).items() if key not in ("update", "sync_steps", "mixup_alpha")}


def _family_settings(policy: settings.PolicySettings) -> dict[str, Any]:
    """Return the policy's settings without those of its start."""
    return {key: value for key, value in vars(policy).items() if key not in ("init", "init_scale", "mean", "scale")}


def _task_digest(built: Built, text) -> str:
    """Hash the task's own reference and the text that is learned from."""
    digest = hashlib.sha256(built.run.task.automaton.digest.encode())
    for array in (built.run.task.log_reference, *(() if text is None else text.tokens[None])):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read(content: bytes, like: pretraining.Fitted) -> pretraining.Fitted:
    leaves = checked_files.unpack_arrays(content)
    checked_files.check_arrays(leaves, jax.tree.leaves(like))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
