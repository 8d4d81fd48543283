"""The evaluation of a loss that is written in PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlkl.diagnostics.check.arguments import SPELLINGS
from rlkl.diagnostics.check.call import Call, Evaluation


def evaluator(call: Call) -> Callable[[Mapping[str, np.ndarray], float], Evaluation]:
    """The function that evaluates the loss on a batch. Raises `TypeError` if the loss returns no tensor."""

    import torch

    read = {name for name in SPELLINGS if call.matched.reads(name)} | {"mask"}

    def evaluate(arrays: Mapping[str, np.ndarray], beta: float) -> Evaluation:
        arrays = call.layout.apply(arrays)
        tensors = {name: torch.tensor(arrays[name]) if arrays[name].ndim else arrays[name].item() for name in read}
        leaves = [tensors[name].requires_grad_() for name in call.leaves]
        loss, metrics = call.result(tensors, beta)
        if not torch.is_tensor(loss):
            raise TypeError(f"it returns {type(loss).__name__}, not a tensor")
        gradients: Any = [None] * len(leaves)
        if loss.requires_grad:  # a penalty may be left out altogether
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        by_name = {
            name: np.zeros(leaf.shape) if gradient is None else gradient.double().numpy()
            for name, leaf, gradient in zip(call.leaves, leaves, gradients, strict=True)
        }
        return Evaluation(float(loss.detach()), by_name, scalars(metrics))

    return evaluate


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are one number."""
    import torch

    numbers = {}
    for name, value in metrics.items():
        if torch.is_tensor(value):
            value = value.detach().double().numpy()
        if np.size(value) == 1 and np.issubdtype(np.asarray(value).dtype, np.number):
            numbers[name] = float(np.asarray(value).reshape(()))
    return numbers
