"""Train a tiny random GPT-2 with a trainer of TRL, on samples that the network itself draws."""

import os
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks.automaton import Automaton

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers

LEARNING_RATE = 3e-3  # it falls linearly to 0


def train(
    trainer: str,
    automaton: Automaton,
    reward: Float[np.ndarray, " Y"],
    *,
    group: int,
    steps: int,
    seed: int,
    options: Mapping[str, Any],
) -> tuple[Float[np.ndarray, "D V"], Float[np.ndarray, "D V"]]:
    """The log-probabilities of the next token in each state, before and after training; before is also the reference.

    Token 0 ends a sequence; the last token is also the prompt. reward: of each sequence of `enumerate_all`. group: samples of a
    step. options: of the trainer's config.
    """
    batch = enumerate_all(automaton)
    by_tokens = {tuple(tokens[mask]): float(r) for tokens, mask, r in zip(batch.tokens, batch.mask, reward, strict=True)}

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [by_tokens[tuple(ids)] for ids in completion_ids]

    prompt = automaton.vocabulary - 1
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.manual_seed(seed)
    network = transformers.GPT2LMHeadModel(_config(automaton.vocabulary, automaton.horizon))
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        before = _table(network, automaton)
        config = getattr(trl, trainer.replace("Trainer", "Config"))(
            output_dir=folder, max_steps=steps, seed=seed, learning_rate=LEARNING_RATE, lr_scheduler_type="linear",
            max_grad_norm=0.0, per_device_train_batch_size=group, num_generations=group,
            max_completion_length=automaton.horizon, model_init_kwargs={"dtype": "float32"}, use_cpu=True, bf16=False,
            gradient_checkpointing=False, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            **options,
        )  # fmt: skip
        training = getattr(trl, trainer)(
            model=folder,
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [str(prompt)] * group}),
            processing_class=_tokenizer(automaton.vocabulary),
        )
        training.remove_callback(transformers.PrinterCallback)
        training.train()
        return before, _table(training.model, automaton)


def _config(vocabulary: int, horizon: int) -> transformers.GPT2Config:
    return transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=horizon + 1, n_layer=1, n_embd=32, n_head=2, initializer_range=0.15,
        bos_token_id=vocabulary - 1, eos_token_id=0, pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip


def _tokenizer(vocabulary: int) -> transformers.PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({str(token): token for token in range(vocabulary)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=str(vocabulary - 1), eos_token="0", pad_token="0"
    )


@torch.no_grad()
def _table(network: Any, automaton: Automaton) -> Float[np.ndarray, "D V"]:
    """The network's log-probabilities in each state."""
    batch, mask = enumerate_all(automaton), enumerate_all(automaton).mask
    prompts = np.full((len(batch.tokens), 1), automaton.vocabulary - 1)
    logits = network.double().eval()(torch.tensor(np.concatenate([prompts, batch.tokens[:, :-1]], axis=1))).logits
    table = np.zeros((automaton.decisions, automaton.vocabulary))
    table[batch.states[:, :-1][mask]] = torch.log_softmax(logits, dim=-1).numpy()[mask]
    return table
