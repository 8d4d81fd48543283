"""The evaluation of a loss that is written in JAX."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlkl.diagnostics.check.arguments import SPELLINGS
from rlkl.diagnostics.check.call import Call, Evaluation
from rlkl.settings import numerics

UNTRACEABLE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, jax.errors.UnexpectedTracerError)


def evaluator(call: Call) -> Callable[[Mapping[str, np.ndarray], float], Evaluation]:
    """The function that evaluates the loss on a batch, compiled where the loss can be traced."""

    read = {name for name in SPELLINGS if call.matched.reads(name)} | {"mask"}

    def value_and_gradient(leaves, others, constants, beta):
        def loss(leaves):
            value, metrics = call.result({**dict(constants), **others, **leaves}, beta)
            return jnp.asarray(value, float), scalars(metrics)

        return jax.value_and_grad(loss, has_aux=True)(leaves)

    # A loss may branch on its coefficient, or on an array: then less of it is compiled.
    forms: list[Callable[..., Any]] = [
        jax.jit(value_and_gradient, static_argnums=2),
        jax.jit(value_and_gradient, static_argnums=(2, 3)),
        value_and_gradient,
    ]

    def evaluate(arrays: Mapping[str, np.ndarray], beta: float) -> Evaluation:
        arrays = call.layout.apply(arrays)
        constants = tuple((name, value.item()) for name, value in arrays.items() if not value.ndim)
        with numerics.pinned(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            by_name = {name: jnp.asarray(value) for name, value in arrays.items() if value.ndim and name in read}
            leaves = {name: by_name.pop(name) for name in call.leaves}
            while len(forms) > 1:
                try:
                    (value, metrics), gradients = forms[0](leaves, by_name, constants, beta)
                    break
                except UNTRACEABLE:
                    forms.pop(0)
            else:
                (value, metrics), gradients = forms[0](leaves, by_name, constants, beta)
        numbers = {name: float(number) for name, number in metrics.items()}
        return Evaluation(float(value), {name: np.asarray(each, float) for name, each in gradients.items()}, numbers)

    return evaluate


def scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are one number."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float, jax.Array, np.ndarray))}
    return {name: jnp.reshape(jnp.asarray(value, float), ()) for name, value in numbers.items() if np.size(value) == 1}
