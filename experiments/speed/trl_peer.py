"""The work with TRL, on a GPT-2 of the same size, nothing downloaded: `python -m experiments.speed.trl_peer --threads 1`.

One update is one prompt (the start token) and 128 completions of 16 tokens. `grpo`: the k3 penalty in the loss;
`rloo`: leave-one-out and the k1 penalty in the reward, one advantage a sequence: the nearer to the work.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from experiments.speed import work
from experiments.speed.work import BATCH, LENGTH, START, VOCABULARY

LAST = 5  # batches whose mean is a run's grade: those of its last steps


def tokenizer() -> Any:
    """A word for each token and one more, which is start, padding and end at once."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(token): token for token in range(VOCABULARY + 1)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    start = str(START)
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=start, eos_token=start, pad_token=start)


def save_model(folder: str, seed: int) -> None:
    """A GPT-2 in `folder`, as rlkl's network starts: uniform, by a head of zeros. TRL loads policy and reference from there."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_layer": work.LAYERS, "n_embd": work.WIDTH, "n_head": work.HEADS, "n_inner": work.MLP}
    special: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), START)
    no_dropout: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape: dict[str, Any] = {"vocab_size": VOCABULARY + 1, "n_positions": LENGTH + 1, "tie_word_embeddings": False}
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**shape, **sizes, **special, **no_dropout))
    for name, weight in model.named_parameters():
        if name.startswith("lm_head"):
            torch.nn.init.zeros_(weight)
        elif weight.dim() == 2:  # an embedding, or [from, to]
            residual = (2 * work.LAYERS) ** -0.5 if "c_proj" in name else 1.0
            embeds = name.endswith(("wte.weight", "wpe.weight"))
            torch.nn.init.normal_(weight, std=1.0 if embeds else residual * weight.shape[0] ** -0.5)
    model.save_pretrained(folder)


def options(folder: str, seed: int, logged: bool) -> dict[str, Any]:
    """What makes TRL do the work and nothing else: no checkpoints, no services, no half precision, no recomputing."""
    batch = {"per_device_train_batch_size": BATCH, "num_generations": BATCH, "max_completion_length": LENGTH}
    training = {"beta": work.BETA, "learning_rate": work.LEARNING_RATE, "lr_scheduler_type": "constant", "max_steps": 10**6}
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_grad_norm": 0.0}
    logs = {"logging_strategy": "steps", "logging_steps": 1} if logged else {"logging_strategy": "no"}
    silent = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "seed": seed, **logs}
    sixteen = {"generation_kwargs": {"suppress_tokens": [START]}}  # the end is never drawn
    dtype = {"model_init_kwargs": {"dtype": "float32"}}
    return {"output_dir": folder, **batch, **training, **plain, **silent, **sixteen, **dtype}


def clock(stop: Callable[[list[float]], bool]) -> Any:
    """A callback that notes when each update ends and what TRL logs, and ends the training where `stop(ends)` says so."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.logs: list[dict[str, float]] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ends.append(time.perf_counter())
            control.should_training_stop = stop(self.ends)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.logs.append(logs)

    return Clock()


def train(algorithm: str, stop: Callable[[list[float]], bool], seed: int = 0, logged: bool = False) -> Any:
    """Train until `stop` says so; returns the clock."""
    import trl
    from datasets import Dataset
    from transformers import PrinterCallback

    reward = work.reward().tolist()

    def last_token(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [reward[tokens[-1]] for tokens in completion_ids]

    trainer, config = {"grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}[algorithm]
    counter = clock(stop)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, seed)
        training = trainer(
            model=folder,
            reward_funcs=last_token,
            args=config(**options(folder, seed, logged)),
            train_dataset=Dataset.from_dict({"prompt": [str(START)] * BATCH}),
            processing_class=tokenizer(),
            callbacks=[counter],
        )
        training.remove_callback(PrinterCallback)  # it prints to standard output, which is for the result
        training.train()
    return counter


def grades(algorithm: str, runs: int, steps: int) -> dict[str, list[float]]:
    """Mean reward and KL of so many runs over their last batches, and the tokens of an update, as TRL logs them."""
    result: dict[str, list[float]] = {"reward": [], "kl": [], "tokens": []}
    for seed in range(runs):
        logs = train(algorithm, lambda ends: len(ends) >= steps, seed, logged=True).logs
        last = [entry for entry in logs if "kl" in entry][-LAST:]
        length = [entry["completions/mean_length"] for entry in last]
        result["reward"].append(statistics.mean(entry["rewards/last_token/mean"] for entry in last))
        result["kl"].append(statistics.mean(entry["kl"] * LENGTH for entry in last))  # TRL's is a token's
        result["tokens"].append(statistics.mean(length) * BATCH)
    return result


def main() -> None:
    """Print the updates per second, or how good `--runs` runs are after `--steps` steps."""
    arguments = work.arguments(__doc__, {"algorithm": ["grpo", "rloo"]})
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.runs:
        print(json.dumps(grades(arguments.algorithm, arguments.runs, arguments.steps)))
        return

    def stop(ends: list[float]) -> bool:
        counted = ends[work.WARMUP - 1 :]
        return bool(counted) and counted[-1] - counted[0] >= arguments.seconds

    ends = train(arguments.algorithm, stop).ends[work.WARMUP - 1 :]
    packages = ["torch", "trl", "transformers", "accelerate", "datasets"]
    print(work.line("trl", arguments.algorithm, arguments.threads, len(ends) - 1, ends[-1] - ends[0], packages))


if __name__ == "__main__":
    main()
