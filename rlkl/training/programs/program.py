"""A function of a block of runs as a program: compiled, or loaded from a cache."""

import contextlib
import hashlib
import json
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from rlkl.training.programs import executable, result_structure
from rlkl.training.programs.static_key import NoStaticKeyError, structure_key, value_key

HEADER = struct.Struct("<Q")  # length of the description before the executable


@runtime_checkable
class ProgramCache(Protocol):
    """A cache of compiled programs that outlives the process."""

    def read(self, key: str) -> bytes | None:
        """Return the content that was written under this key; None where there is none, or it is damaged."""

    def write(self, key: str, content: bytes) -> None:
        """Write this content under a key."""


_cache: ProgramCache | None = None


def use_cache(cache: ProgramCache | None) -> None:
    """From now on, load programs from this cache, or else compile them and write them to it. None: use no cache."""
    global _cache
    _cache = cache


def has_cache() -> bool:
    """Whether a cache is used."""
    return _cache is not None


def static_part(tree: Any) -> tuple:
    """The part of a pytree that a program is compiled for: its structure, and the shapes and dtypes of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    dtypes = (leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype for leaf in leaves)
    return structure, tuple(zip(map(np.shape, leaves), dtypes, strict=True))


class _Loaded(NamedTuple):
    """An executable on its device, and the structure of its result."""

    executable: Any
    structure: jax.tree_util.PyTreeDef
    device: jax.Device


def _over_block(function: Callable, in_axes: tuple) -> Callable:
    def over_block(*arguments: Any) -> Any:
        size = jax.tree.leaves(arguments[0])[0].shape[0]
        if size > 1:
            return jax.vmap(function, in_axes=in_axes)(*arguments)
        axes = zip(arguments, in_axes, strict=True)
        single = (jax.tree.map(lambda x: x[0], argument) if axis == 0 else argument for argument, axis in axes)
        return jax.tree.map(lambda x: jnp.asarray(x)[None], function(*single))

    return over_block


class Program:
    """A function of one run, as a program for blocks of runs.

    It is vmapped, unless the block has one run, which a batch axis slows down. Calls whose arguments have one static part, on
    one device, share an executable. in_axes: as in `jax.vmap`. compiler_options: as in `jax.jit`.
    """

    def __init__(self, function: Callable, in_axes: tuple, compiler_options: dict[str, Any] | None = None):
        self._static = (function, in_axes, compiler_options)
        self._over_block, self._compiler_options = _over_block(function, in_axes), compiler_options
        self._jitted = jax.jit(self._over_block, compiler_options=compiler_options)
        self._loaded: dict[tuple, _Loaded | None] = {}
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """Call the function on a block of runs."""
        if _cache is None:
            return self._jitted(*arguments)
        device = jax.config.values["jax_default_device"] or jax.local_devices()[0]
        static = (static_part(arguments), device)
        with self._lock:
            if static not in self._loaded:
                self._loaded[static] = self._load(_cache, arguments, device)
            loaded = self._loaded[static]
        if loaded is None:
            return self._jitted(*arguments)
        results = executable.call(loaded.executable, jax.tree.leaves(arguments), device)
        return jax.tree.unflatten(loaded.structure, results)

    def shape(self, *arguments: Any) -> Any:
        """The shapes and dtypes of the result, as `jax.eval_shape`."""
        return jax.eval_shape(self._jitted, *arguments)

    def _load(self, cache: ProgramCache, arguments: tuple, device: jax.Device) -> _Loaded | None:
        """Load the executable for these arguments, or compile it and write it to the cache; None where it has no key."""
        try:
            key = self._key(arguments)
        except NoStaticKeyError:
            return None
        content = cache.read(key)
        if content is not None:
            with contextlib.suppress(Exception):  # what does not fit is compiled anew
                return _unpack(content, device)
        structure, compiled, code = self._compile(arguments)
        description = result_structure.to_json(structure)
        if code is not None and description is not None:
            cache.write(key, _pack(description, code))
        return _Loaded(compiled, structure, device)

    def _key(self, arguments: tuple) -> str:
        structure, leaves = static_part(arguments)
        parts = [value_key(self._static), structure_key(structure), [[list(shape), str(dtype)] for shape, dtype in leaves]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def _compile(self, arguments: tuple) -> tuple[jax.tree_util.PyTreeDef, Any, bytes | None]:
        """Compile the function as one of a list of arrays, and note the structure of its result while it is traced."""
        leaves, structure = jax.tree.flatten(arguments)
        structures = []

        def flat(leaves: list) -> list:
            results, result = jax.tree.flatten(self._over_block(*jax.tree.unflatten(structure, leaves)))
            structures.append(result)
            return results

        compiled, code = executable.compile_flat(flat, leaves, self._compiler_options)
        return structures[-1], compiled, code


def _pack(description: Any, code: bytes) -> bytes:
    """The content of a file: the structure of the result, then the executable."""
    text = json.dumps(description).encode()
    return HEADER.pack(len(text)) + text + code


def _unpack(content: bytes, device: jax.Device) -> _Loaded:
    (size,) = HEADER.unpack_from(content)
    text, code = content[HEADER.size : HEADER.size + size], content[HEADER.size + size :]
    return _Loaded(executable.load(code, device), result_structure.from_json(json.loads(text)), device)
