"""How a user's loss is called: its framework, the form of its arguments, and what it returns."""

import inspect
import itertools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlkl.diagnostics.check.arguments import Matched

DIFFERENTIATED = ("log_probs", "logits")
LOSS_KEYS = ("loss", "total_loss", "policy_loss", "pg_loss")
MASKS = {"float": np.float64, "bool": np.bool_, "int": np.int64}


class Evaluation(NamedTuple):
    """The loss of a batch, its gradient by `log_probs` and `logits`, and the numbers that it returns beside."""

    value: float
    gradient: Mapping[str, np.ndarray]
    metrics: Mapping[str, float]


class Layout(NamedTuple):
    """The framework of a loss, and the form of those arguments that libraries pass in several forms."""

    framework: str
    advantages: str = "per token"
    rewards: str = "per sequence"
    mask: str = "float"

    def apply(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays in this form."""
        reward = arrays["rewards"]
        centred = reward - arrays["expected_reward"]
        advantages = {"per token": arrays["advantages"], "per sequence": centred, "column": centred[:, None]}
        rewards = {"per sequence": reward, "per token": arrays["token_rewards"], "column": reward[:, None]}
        forms = {"advantages": advantages[self.advantages], "rewards": rewards[self.rewards]}
        return {**arrays, **forms, "mask": arrays["mask"].astype(MASKS[self.mask])}


class Call(NamedTuple):
    """A loss, the arguments that it takes, values of its other arguments, and the form in which it takes them."""

    loss: Callable[..., Any]
    matched: Matched
    settings: Mapping[str, Any]
    layout: Layout

    def result(self, arrays: Mapping[str, Any], beta: Any) -> tuple[Any, dict[str, Any]]:
        """The loss as one number, and the metrics beside it, for arrays of the loss's framework."""
        arguments = {parameter: arrays[name] for parameter, name in self.matched.arrays.items()}
        if self.matched.coefficient is not None:
            arguments[self.matched.coefficient] = beta
        if self.matched.bundle is not None:
            arguments[self.matched.bundle] = dict(arrays)
        loss, metrics = parts(self.loss(**arguments, **self.settings))
        return total(loss, arrays["mask"]), metrics

    @property
    def leaves(self) -> tuple[str, ...]:
        """The arrays that the loss is differentiated by."""
        return tuple(name for name in DIFFERENTIATED if self.matched.reads(name))


def layouts(loss: Callable[..., Any], matched: Matched) -> Iterator[Layout]:
    """The forms to try, the likeliest first."""
    advantages = ("per token", "per sequence", "column") if matched.reads("advantages") else ("per token",)
    rewards = ("per sequence", "per token", "column") if matched.reads("rewards") else ("per sequence",)
    masks = tuple(MASKS) if matched.reads("mask") else ("float",)
    for form in itertools.product(frameworks(loss), advantages, rewards, masks):
        yield Layout(*form)


def frameworks(loss: Callable[..., Any]) -> tuple[str, ...]:
    """The frameworks to try, the likelier first: JAX alone unless PyTorch is loaded, else by what the loss's module imports."""
    if "torch" not in sys.modules:
        return ("jax",)
    function = inspect.unwrap(getattr(loss, "forward", getattr(loss, "func", loss)))
    names = getattr(getattr(function, "__func__", function), "__globals__", {}).values()
    modules = {each.__name__ if isinstance(each, types.ModuleType) else str(getattr(each, "__module__", "")) for each in names}
    packages = {module.partition(".")[0] for module in modules}
    return ("jax", "torch") if "jax" in packages and "torch" not in packages else ("torch", "jax")


def parts(result: Any) -> tuple[Any, dict[str, Any]]:
    """The loss and the metrics of what a loss returns: an array, a tuple, a dictionary, or an object with a `loss`."""
    if isinstance(result, Mapping):
        key = next((key for key in LOSS_KEYS if key in result), None)
        if key is None:
            raise TypeError(f"it returns a dictionary with {', '.join(map(str, result))}, and none of {', '.join(LOSS_KEYS)}")
        return result[key], {str(name): value for name, value in result.items() if name != key}
    if isinstance(result, (tuple, list)):
        metrics: dict[str, Any] = {}
        for name, value in list(zip(getattr(result, "_fields", range(len(result))), result, strict=True))[1:]:
            metrics |= {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {f"output {name}": value}
        return result[0], metrics
    return getattr(result, "loss", result), {}


def total(loss: Any, mask: Any) -> Any:
    """The loss as one number: the sum over tokens and the mean over sequences, where it is given for each."""
    if getattr(loss, "ndim", 0) == 2 and loss.shape == mask.shape:
        return (loss * mask).sum() / len(mask)
    return loss.mean() if getattr(loss, "ndim", 0) else loss
