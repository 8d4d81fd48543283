"""The work with TRL, on a GPT-2 of the same size, nothing downloaded: `python -m experiments.speed.trl_peer --threads 1`.

One update is one prompt (the start token) and 128 completions of 16 tokens. `grpo`: the k3 penalty in the loss;
`rloo`: leave-one-out and the k1 penalty in the reward, one advantage a sequence: the nearer to the work.
"""

import os
import tempfile
import time
from typing import Any

from experiments.speed import work
from experiments.speed.work import BATCH, LENGTH, START, VOCABULARY


def tokenizer() -> Any:
    """A word for each token and one more, which is start, padding and end at once."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(token): token for token in range(VOCABULARY + 1)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    start = str(START)
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=start, eos_token=start, pad_token=start)


def save_model(folder: str) -> None:
    """A random GPT-2 in `folder`: TRL loads the policy and the reference from there."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_layer": work.LAYERS, "n_embd": work.WIDTH, "n_head": work.HEADS, "n_inner": work.MLP}
    special: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), START)
    no_dropout: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(vocab_size=VOCABULARY + 1, n_positions=LENGTH + 1, **sizes, **special, **no_dropout)
    GPT2LMHeadModel(config).save_pretrained(folder)


def options(folder: str) -> dict[str, Any]:
    """What makes TRL do the work and nothing else: no checkpoints, no services, no half precision, no recomputing."""
    batch = {"per_device_train_batch_size": BATCH, "num_generations": BATCH, "max_completion_length": LENGTH}
    training = {"beta": work.BETA, "learning_rate": work.LEARNING_RATE, "lr_scheduler_type": "constant", "max_steps": 10**6}
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_grad_norm": 0.0}
    silent = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    sixteen = {"generation_kwargs": {"suppress_tokens": [START]}}  # the end is never drawn
    dtype = {"model_init_kwargs": {"dtype": "float32"}}
    return {"output_dir": folder, **batch, **training, **plain, **silent, **sixteen, **dtype}


def clock(seconds: float) -> Any:
    """A callback that notes when each update ends, and stops `seconds` after the warm-up."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ends.append(time.perf_counter())
            counted = self.ends[work.WARMUP - 1 :]
            control.should_training_stop = bool(counted) and counted[-1] - counted[0] >= seconds

    return Clock()


def train(algorithm: str, seconds: float) -> tuple[int, float]:
    """Updates after the warm-up and the seconds they took."""
    import trl
    from datasets import Dataset
    from transformers import PrinterCallback

    reward = work.reward().tolist()

    def last_token(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [reward[tokens[-1]] for tokens in completion_ids]

    trainer, config = {"grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}[algorithm]
    counter = clock(seconds)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        training = trainer(
            model=folder,
            reward_funcs=last_token,
            args=config(**options(folder)),
            train_dataset=Dataset.from_dict({"prompt": [str(START)] * BATCH}),
            processing_class=tokenizer(),
            callbacks=[counter],
        )
        training.remove_callback(PrinterCallback)  # it prints to standard output, which is for the result
        training.train()
    return len(counter.ends) - work.WARMUP, counter.ends[-1] - counter.ends[work.WARMUP - 1]


def main() -> None:
    """Print the updates per second."""
    chosen = work.arguments(__doc__, "algorithm", ["grpo", "rloo"])
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(chosen.threads)
    updates, elapsed = train(chosen.algorithm, chosen.seconds)
    packages = ["torch", "trl", "transformers", "accelerate", "datasets"]
    print(work.line("trl", chosen.algorithm, chosen.threads, updates, elapsed, packages))


if __name__ == "__main__":
    main()
