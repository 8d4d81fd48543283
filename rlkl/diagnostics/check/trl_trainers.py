"""TRL's trainers as black boxes: the gradient of one real step of `trainer.train()`, read off the parameters.

The policy is a table whose `generate` returns the population (see `trl_table_model`). Generation aside nothing is replaced: the
trainer tokenises, evaluates rewards and reference, makes advantages, and takes a step of plain SGD in float64, so that the
parameters before, less those after, over the rate, are its gradient. No private name of TRL is used.
"""

import contextlib
import importlib
import io
import itertools
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from rlkl.diagnostics.check import trl_data
from rlkl.diagnostics.check.trl_data import Data
from rlkl.diagnostics.check.worlds import World
from rlkl.errors import SettingsError, nearest, one_line

SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "steps",
    "logging_steps": 1,
    "disable_tqdm": True,
}


class Recipe(NamedTuple):
    """How a trainer is run.

    modules: where releases of TRL have it. data: of a world and a group size. reference: the argument that takes the reference;
    None where the trainer loads it from the policy's folder. beta: what its config's beta is, the coefficient of a penalty
    beside a reward, a parameter inside a loss on preferences, or the mixture of a distillation loss.
    """

    modules: tuple[str, ...]
    data: Callable[[World, int | None], Data]
    reference: str | None
    beta: Literal["penalty", "preference", "distillation"]
    has_rewards: bool = True


class Step(NamedTuple):
    """A step of training: the policy that took it, the gradient by its logits, and the numbers that the trainer logged."""

    policy: Float[np.ndarray, "D V"]
    gradient: Float[np.ndarray, "D V"]
    metrics: dict[str, float]


def first_step(
    trainer: str,
    world: World,
    beta: float,
    options: Mapping[str, Any],
    reward_scale: float = 1.0,
    group_size: int | None = None,
) -> Step:
    """The first step of a trainer on the population of a world that is its own sampler.

    trainer: of `TRAINERS`. options: of its config. group_size: every group of that size in one batch, each as often as it is
    drawn; None for one group that is the population. Raises `SettingsError` on an unknown trainer or option, and without TRL.
    """
    return _train(trainer, world, beta, options, reward_scale, group_size, steps=1, rate=1.0)[0]


def second_step(trainer: str, world: World, beta: float, options: Mapping[str, Any], rate: float = 4.0) -> Step:
    """The second update on the same batch, without rewards: the sampler is the world's policy, and the policy has moved on."""
    return _train(trainer, world, beta, {**options, "num_iterations": 2}, 0.0, None, steps=2, rate=rate)[1]


def _train(
    trainer: str,
    world: World,
    beta: float,
    options: Mapping[str, Any],
    reward_scale: float,
    group_size: int | None,
    steps: int,
    rate: float,
) -> list[Step]:
    recipe, trainer_class, config_class = _classes(trainer)
    data = recipe.data(world, group_size)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        from datasets import Dataset
        from torch.optim import SGD, lr_scheduler

        from rlkl.diagnostics.check.trl_table_model import Tables, models, tokenizer

        fixed = {**SETTINGS, **data.settings, "output_dir": folder, "beta": beta, "max_steps": steps}
        _check_options(options, config_class, fixed)
        policy, reference = models(world, data.generated, folder)
        arguments: dict[str, Any] = {"reward_funcs": _reward_function(world, reward_scale)} if recipe.has_rewards else {}
        if recipe.reference is not None:
            arguments[recipe.reference] = reference
        sgd, tables = SGD(policy.parameters(), lr=rate), Tables()
        try:
            training = trainer_class(
                model=policy,
                args=config_class(**fixed, **options),
                train_dataset=Dataset.from_dict(data.columns),
                processing_class=tokenizer(world.automaton),
                optimizers=(sgd, lr_scheduler.LambdaLR(sgd, lambda _: 1.0)),
                callbacks=[tables],
                **arguments,
            )
            training.train()
        except (ValueError, TypeError, NotImplementedError) as error:
            raise SettingsError("loss", f"trl:{trainer}", f"TRL refuses this: {one_line(error)}") from error
        logged = [entry for entry in training.state.log_history if "train_runtime" not in entry]
    return [
        Step(_softmax(before), (before - after) / rate, {k: float(v) for k, v in metrics.items()})
        for (before, after), metrics in zip(itertools.pairwise(tables.seen), logged, strict=True)
    ]


def _softmax(logits: np.ndarray) -> np.ndarray:
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def _classes(trainer: str) -> tuple[Recipe, Any, Any]:
    """The recipe of a trainer, its class and its config's class. Raises `SettingsError` on an unknown one, or without TRL."""
    if trainer not in TRAINERS:
        raise SettingsError("loss", f"trl:{trainer}", nearest(trainer, TRAINERS))
    recipe, config = TRAINERS[trainer], trainer.replace("Trainer", "Config")
    with _quiet():
        try:
            importlib.import_module("torch")
            trl = importlib.import_module("trl")
        except ImportError as error:
            raise SettingsError(
                "loss", f"trl:{trainer}", f"needs PyTorch and TRL: pip install 'rlkl[trl]' ({error})"
            ) from error
        for name in recipe.modules:
            with contextlib.suppress(ImportError, AttributeError):
                module = importlib.import_module(name)
                return recipe, getattr(module, trainer), getattr(module, config)
    raise SettingsError("loss", f"trl:{trainer}", f"is not in TRL {trl.__version__}")


def _check_options(options: Mapping[str, Any], config_class: Any, fixed: Mapping[str, Any]) -> None:
    fields = config_class.__dataclass_fields__
    for key, value in options.items():
        if key not in fields:
            raise SettingsError(key, value, f"is no option of {config_class.__name__}; {nearest(key, fields)}")
        if key in fixed:
            raise SettingsError(key, value, f"is set by the check, to {fixed[key]}")


def _reward_function(world: World, scale: float) -> Callable[..., list[float]]:
    horizon = world.automaton.horizon
    by_tokens = dict(zip(map(tuple, world.batch.tokens), scale * world.reward, strict=True))

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [by_tokens[(*ids, *[0] * (horizon - len(ids)))] for ids in completion_ids]

    return rewards


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars, warnings and logs of the libraries off the terminal."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


TRAINERS: dict[str, Recipe] = {
    "GRPOTrainer": Recipe(("trl",), trl_data.groups, None, "penalty"),
    "RLOOTrainer": Recipe(("trl",), trl_data.groups, None, "penalty"),
    "OnlineDPOTrainer": Recipe(("trl.experimental.online_dpo",), trl_data.generated_pairs, "ref_model", "preference"),
    "DPOTrainer": Recipe(("trl",), trl_data.preferences, "ref_model", "preference", has_rewards=False),
    "KTOTrainer": Recipe(("trl", "trl.experimental.kto"), trl_data.examples, "ref_model", "preference", has_rewards=False),
    "GKDTrainer": Recipe(("trl.experimental.gkd",), trl_data.messages, "teacher_model", "distillation", has_rewards=False),
    "DistillationTrainer": Recipe(("trl",), trl_data.prompts, "teacher_model", "distillation", has_rewards=False),
}
