"""Save and load a trained policy: its arrays and the settings that rebuild it, without pickle."""

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlkl import errors, policies, settings
from rlkl.config import plugins
from rlkl.config.build import Built
from rlkl.policies import base
from rlkl.runs.folder.files import pack_arrays
from rlkl.runs.folder.summary import SCHEMA_VERSION
from rlkl.settings import numerics
from rlkl.tasks import Automaton, Task, checks
from rlkl.training.blocks import Trained


def checkpoint(built: Built, trained: Trained) -> bytes:
    """Return the content of checkpoint.npz: the policy's arrays, and as JSON the settings that rebuild it."""
    automaton = built.run.task.automaton
    about = {
        "schema_version": SCHEMA_VERSION,
        "policy": vars(built.run.settings.policy),
        "dtype": built.run.settings.dtype,
        "states": automaton.states,
        "horizon": automaton.horizon,
        "start": automaton.starts.tolist(),
        "prompt_weights": automaton.prompt_weights.tolist(),
        "context": automaton.context.tolist(),
        "step": int(trained.state.step),
        "plugins": list(built.plugins),
    }
    leaves = jax.tree.leaves(trained.state.policy)
    return pack_arrays(leaves, about=json.dumps(about), next_state=automaton.next_state)


def load_policy(folder: str | Path) -> policies.AnyPolicy:
    """Load the policy that a run left in its folder, in the dtype that it was trained in.

    policy.table(), or a network's policy.score(tokens, states), returns log-probabilities. A float64 policy's are NumPy arrays
    if 64 bits are switched off in jax. Raises `SettingsError` if the file is missing or damaged.
    """
    file = errors.directory(folder) / "checkpoint.npz"
    if not file.exists():
        raise errors.SettingsError("folder", str(folder), "is no run's folder (it holds no checkpoint.npz)")
    with _blame(file):
        content = io.BytesIO(file.read_bytes())
        if not zipfile.is_zipfile(content):
            raise ValueError("it is no .npz file, or only a part of one")
        content.seek(0)
        with np.load(content, allow_pickle=False) as archive:
            arrays = dict(archive)
        about = json.loads(str(arrays.pop("about")))
        files = [str(path) for path in about["plugins"]]
    plugins.load(files)
    with _blame(file), numerics.pinned():
        return _rebuild(about, arrays)


@contextlib.contextmanager
def _blame(file: Path) -> Iterator[None]:
    """Turn every exception into a `SettingsError` that says that this file is damaged."""
    try:
        yield
    except Exception as error:
        reason = error if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        raise errors.damaged(file, reason) from None


def _rebuild(about: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> policies.AnyPolicy:
    """Build the policy of a checkpoint; raises an exception if its parts contradict each other."""
    automaton = _automaton(about, arrays.pop("next_state"))
    policy, dtype = settings.from_mapping(settings.PolicySettings, about["policy"], "policy."), about["dtype"]
    shape = (automaton.decisions, automaton.vocabulary)
    task = Task(automaton, np.zeros(automaton.states), np.zeros(shape), np.zeros(()), np.arange(shape[1], dtype=float))
    if policy.name not in policies.REGISTRY:
        raise ValueError(f"its policy {policy.name!r} is none that is registered here")
    build = policies.REGISTRY[policy.name].build
    like = jax.eval_shape(
        lambda task, legal, key: base.cast(build(policy, base.cast(task, dtype), legal, key, base.number_dtype(dtype)), dtype),
        task,
        automaton.legal,
        jax.random.key(0),
    )
    parts, structure = jax.tree.flatten(like)
    if set(arrays) != {f"leaf_{i}" for i in range(len(parts))}:
        raise ValueError(f"a policy {policy.name!r} has {len(parts)} arrays, and it holds {len(arrays)}")
    for name, part in ((f"leaf_{i}", part) for i, part in enumerate(parts)):
        if (arrays[name].shape, arrays[name].dtype) != (part.shape, part.dtype) or np.isnan(arrays[name]).any():
            raise ValueError(f"its {name} is no {part.dtype} of {part.shape} without a NaN")
    return jax.tree.unflatten(structure, [jax.numpy.asarray(arrays[f"leaf_{i}"]) for i in range(len(parts))])


def _automaton(about: Mapping[str, Any], next_state: np.ndarray) -> Automaton:
    """Build the automaton of a checkpoint; raises `ValueError` if its parts contradict each other."""
    horizon, states = (checks.whole(key, about[key], at_least=1) for key in ("horizon", "states"))
    checks.fits("horizon", horizon, horizon * next_state.size)
    context, decisions = np.asarray(about["context"]), len(next_state)
    starts = about["start"] if isinstance(about["start"], list) else [about["start"]]  # a number before there were prompts
    inside = next_state.ndim == 2 and next_state.size > 0 and next_state.min() >= -1 and next_state.max() < states
    if not inside or context.shape != (decisions,) or not set(starts) <= set(range(decisions)) or not starts:
        raise ValueError("its automaton does not fit together")
    return Automaton(next_state, states, horizon, starts, context, about.get("prompt_weights"))
