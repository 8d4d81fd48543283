"""Convert SkyRL's dumped batches to .npz files that `rlkl diagnose` reads. Run it in SkyRL's environment: they are pickles.

    python from_skyrl.py EXPORT/dumped_data/global_step_*_training_input.pkl --to OUT [--temperature 1.0] [--vocab-size 151936]

Reads what SkyRL writes with `trainer.dump_data_batch=true`: a pickled TrainingInputBatch, a mapping of tensors that are padded
on the left (skyrl/backends/skyrl_train/training_batch.py): `sequences` and `attention_mask` [N, S], and over the last T tokens
`response_mask`, `loss_mask`, `action_log_probs`, `base_action_log_probs`, `rollout_logprobs` and `advantages` [N, T].
A field that is None is left out, and so are rows without a trained token: SkyRL fills batches up with copies. SkyRL removes
rewards and prompt numbers before it dumps, so there is no reward, and a group is what has the same prompt.
"""

import argparse
import hashlib
import pickle
import re
from pathlib import Path

import numpy as np

FIELDS = {
    "log_probs": "action_log_probs",
    "sampler_log_probs": "rollout_logprobs",
    "ref_log_probs": "base_action_log_probs",
    "advantages": "advantages",
}


def convert(batch, step=None):
    """The arrays of one batch, by name; padded, with a mask."""
    mask = numbers(batch["loss_mask"]) * numbers(batch["response_mask"])
    rows, width = (mask != 0).any(axis=1), mask.shape[1]
    sequences = batch["sequences"].cpu().numpy()[rows]
    arrays = {"mask": (mask[rows] != 0).astype(np.int8), "tokens": sequences[:, -width:]}
    for name, key in FIELDS.items():
        if batch.get(key) is not None:
            arrays[name] = numbers(batch[key])[rows]
    responses = numbers(batch["response_mask"])[rows].sum(axis=1).astype(int)
    real = batch["attention_mask"].cpu().numpy()[rows] != 0
    prompts = [row[:-length][keep[:-length]] for row, keep, length in zip(sequences, real, responses, strict=True)]
    arrays["group"] = np.array([label(prompt) for prompt in prompts])
    return arrays | ({} if step is None else {"step": np.full(len(sequences), step)})


def numbers(tensor):
    """A tensor as numbers; bfloat16 as float32."""
    return tensor.detach().float().cpu().numpy()


def label(prompt):
    """A whole number that is equal for equal prompts."""
    return int.from_bytes(hashlib.blake2b(str(prompt.tolist()).encode(), digest_size=7).digest(), "little")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dumps", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, required=True, help="a folder")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--vocab-size", type=int)
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    header = {"rlkl_rollouts": 1, "temperature": options.temperature, "vocab_size": options.vocab_size}
    for path in options.dumps:
        with path.open("rb") as file:
            batch = pickle.load(file)
        step = re.search(r"global_step_(\d+)", path.stem)
        arrays = convert(batch, int(step[1]) if step else None)
        np.savez(options.to / f"{path.stem}.npz", **arrays, **{key: each for key, each in header.items() if each is not None})


if __name__ == "__main__":
    main()
