"""The arguments of a loss, matched by name: the field's spellings of each array, and the arrays of a batch."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlkl.diagnostics.check.worlds import World
from rlkl.errors import SettingsError, nearest

SPELLINGS: dict[str, tuple[str, ...]] = {
    "log_probs": (
        "log_prob", "logprobs", "logprob", "logps", "logp", "log_pi", "pi_logprobs", "per_token_logps", "curr_logprobs",
        "new_log_probs", "new_logprobs", "policy_log_probs", "policy_logprobs", "action_log_probs", "token_log_probs",
    ),
    "old_log_probs": (
        "old_log_prob", "old_logprobs", "old_logprob", "old_logps", "old_logp", "old_per_token_logps", "pi_old_logprobs",
        "prev_logprobs", "generation_logprobs", "rollout_log_probs", "rollout_logprobs", "sampling_logprobs",
        "behavior_log_probs", "inference_logprobs",
    ),
    "ref_log_probs": (
        "ref_log_prob", "ref_logprobs", "ref_logprob", "ref_logps", "ref_logp", "log_ref", "ref_per_token_logps",
        "reference_log_probs", "reference_logprobs", "reference_policy_logprobs", "base_action_log_probs", "log_probs_base",
        "pi_ref_logprobs",
    ),
    "logits": ("policy_logits", "new_logits"),
    "ref_logits": ("reference_logits",),
    "tokens": (
        "actions", "responses", "completion_ids", "response_ids", "target_ids", "token_ids", "targets", "action_ids",
    ),
    "mask": (
        "masks", "response_mask", "completion_mask", "action_mask", "loss_mask", "token_mask", "eos_mask", "valid_mask",
    ),
    "advantages": ("advantage", "adv", "advs"),
    "rewards": ("reward", "scores", "score", "outcome_rewards", "sequence_rewards"),
    "token_rewards": ("token_level_rewards", "token_level_scores", "per_token_rewards"),
    "returns": ("reward_to_go",),
    "values": ("old_values", "vpreds", "baseline", "baselines"),
    "weights": ("sample_weights", "sequence_weights", "batch_weights"),
    "lengths": ("response_lengths", "sequence_lengths", "seq_lens", "completion_lengths"),
    "group_index": ("index", "group_ids", "uid", "prompt_index"),
    "group_size": ("num_generations", "n_samples_per_prompt", "rollout_n", "samples_per_prompt"),
}  # fmt: skip
MEANINGS = {  # N rows of T tokens, a vocabulary of V
    "log_probs": "[N, T], the policy's log-probability of each token",
    "old_log_probs": "[N, T], the sampler's, without a gradient",
    "ref_log_probs": "[N, T], the reference's",
    "logits": "[N, T, V], the policy's logits, whose row t scores token t",
    "ref_logits": "[N, T, V], the reference's",
    "tokens": "[N, T], indices; 0 at padding",
    "mask": "[N, T], 1 for a token and 0 for padding",
    "advantages": "[N, T] or [N], the rewards less their expectation",
    "rewards": "[N], one number for each sequence",
    "token_rewards": "[N, T], the same at each last token",
    "returns": "[N, T], the sequence's reward at each token",
    "values": "[N, T], zeros",
    "weights": "[N], of the rows; their mean is 1",
    "lengths": "[N], numbers of tokens",
    "group_index": "[N], the group of each row: all rows are one group",
    "group_size": "the number of rows",
}
NAMES = {spelling: name for name, spellings in SPELLINGS.items() for spelling in (name, *spellings)}
COEFFICIENTS = (
    "beta", "kl_coef", "kl_coeff", "kl_beta", "kl_loss_coef", "kl_loss_coeff", "kl_penalty_coef", "kl_loss_weight", "kl_weight",
    "kl_ctl", "init_kl_coef", "reference_policy_kl_penalty", "lambda_kl", "beta_kl", "kl_lambda",
)  # fmt: skip
BUNDLES = ("batch", "data", "inputs", "micro_batch", "experience")  # parameters that receive every array, in a dictionary


class Matched(NamedTuple):
    """How a loss is called: for each of its parameters the array it receives, the name of its coefficient, its bundle."""

    arrays: Mapping[str, str]
    coefficient: str | None
    bundle: str | None = None

    def reads(self, *names: str) -> bool:
        """Whether the loss takes any of these arrays; a bundle holds all."""
        return self.bundle is not None or any(name in self.arrays.values() for name in names)


def match_arguments(loss: Callable[..., Any], names: Mapping[str, str], settings: Mapping[str, Any]) -> Matched:
    """Match the parameters of a loss to arrays by the spellings above, or by `names` (parameter to array).

    settings: values of other parameters. Raises `SettingsError` on a parameter that has neither an array nor a default.
    """
    parameters = inspect.signature(getattr(loss, "forward", loss)).parameters
    for parameter, name in names.items():
        if parameter not in parameters:
            raise SettingsError(f"names.{parameter}", name, f"the loss has no such argument; {_has(parameters)}")
        if name not in SPELLINGS and name != "beta":
            raise SettingsError(f"names.{parameter}", name, f"{nearest(name, [*SPELLINGS, 'beta'])}")
    accepts_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for setting in settings:
        if setting in COEFFICIENTS and names.get(setting) is None:
            raise SettingsError(setting, settings[setting], "is the coefficient of the penalty; beta=NUMBER sets it")
        if setting not in parameters and not accepts_any:
            raise SettingsError(setting, settings[setting], f"the loss has no such argument; {_has(parameters)}")
    arrays: dict[str, str] = {}
    coefficient, bundle = None, None
    for parameter, declared in parameters.items():
        if declared.kind in (declared.VAR_KEYWORD, declared.VAR_POSITIONAL) or parameter in settings:
            continue
        array = names.get(parameter) or NAMES.get(parameter)
        if array == "beta" or (array is None and coefficient is None and parameter in COEFFICIENTS):
            coefficient = parameter
        elif array is not None:
            arrays[parameter] = array
        elif parameter in BUNDLES:
            bundle = parameter
        elif declared.default is declared.empty:
            raise SettingsError(
                "loss", parameter, f"is an argument of no known name; names.{parameter}=NAME maps it to {_known()}"
            )
    if bundle is None and not {"log_probs", "logits"} & set(arrays.values()):
        allowed = f"are its arguments; one must be log_probs or logits; names.ARGUMENT=NAME maps it to {_known()}"
        raise SettingsError("loss", ", ".join(parameters), allowed)
    return Matched(arrays, coefficient, bundle)


def _known() -> str:
    return f"one of {', '.join((*SPELLINGS, 'beta'))}"


def _has(parameters: Mapping[str, Any]) -> str:
    return f"it has {', '.join(parameters)}"


def batch_arrays(
    world: World,
    rows: np.ndarray,
    *,
    reward_scale: float = 1.0,
    weight: np.ndarray | None = None,
    noise_at_padding: bool = False,
) -> dict[str, np.ndarray]:
    """Every array that a loss can ask for, on the rows (indices of sequences) of a batch.

    N rows of T tokens, padding columns included. Advantages are the rewards less their expectation, for each token. At padding
    the log-probabilities are 0, or with `noise_at_padding` numbers that mean nothing, as networks give there.
    """
    mask = np.asarray(world.batch.mask)[rows]
    sequences, reward = world.sequences, reward_scale * world.reward
    expected = np.exp(sequences.log_sampler.sum(axis=1)) @ reward
    states, tokens = world.states[rows], np.where(mask, world.batch.tokens[rows], 0)
    last = mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))
    token_rewards = last * reward[rows, None]
    arrays = {
        "log_probs": sequences.log_pi[rows],
        "old_log_probs": sequences.log_sampler[rows],
        "ref_log_probs": sequences.log_ref[rows],
        "logits": np.log(world.policy)[states],
        "ref_logits": np.log(world.reference)[states],
        "tokens": tokens,
        "mask": mask.astype(float),
        "advantages": (reward[rows] - expected)[:, None] * mask,
        "token_rewards": token_rewards,
        "returns": reward[rows, None] * mask,
        "values": np.zeros(mask.shape),
    }
    arrays = {name: _padded(value, world.padding) for name, value in arrays.items()}
    if noise_at_padding:
        padding = arrays["mask"] == 0.0
        noise = -0.2 - np.random.default_rng(0).random((3, *padding.shape))
        for name, numbers in zip(("log_probs", "ref_log_probs"), noise, strict=False):
            arrays[name] = np.where(padding, numbers, arrays[name])
        arrays["old_log_probs"] = np.where(padding, arrays["log_probs"], arrays["old_log_probs"])
        arrays["ref_logits"] = np.where(padding[..., None], np.log(world.reference[:, ::-1])[0], arrays["ref_logits"])
    return arrays | {
        "expected_reward": np.asarray(expected),
        "rewards": reward[rows],
        "weights": np.ones(len(rows)) if weight is None else weight,
        "lengths": world.lengths[rows],
        "group_index": np.zeros(len(rows), int),
        "group_size": np.asarray(len(rows)),
    }


def _padded(array: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
    return np.pad(array, ((0, 0), padding, *([(0, 0)] * (array.ndim - 2))))
