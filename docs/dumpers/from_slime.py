"""Convert slime's train dumps to .npz files that `rlkl diagnose` reads. Run it in slime's environment: the dumps are pickles.

    python from_slime.py DUMPS/train_data/*.pt --to OUT [--samples-per-prompt 8] [--temperature 1.0] [--vocab-size 151936]

Reads what slime writes with `--save-debug-train-data` or `--dump-details DUMPS` (slime/observability/train_data_utils.py,
format_version 2): `{format_version, rollout_id, samples: [..]}`, where a sample holds `tokens` (prompt and response),
`response_lengths`, `loss_masks`, and lists over the response: `log_probs`, `rollout_log_probs` (SGLang's), `ref_log_probs`,
`advantages`. A field is written if every sample has it. reward: `raw_reward`, by a sample's place in the rollout, else
`rewards`, which slime has normalised. group: the place over --samples-per-prompt; else the tokens before the response.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch

FIELDS = {
    "log_probs": "log_probs",
    "sampler_log_probs": "rollout_log_probs",
    "ref_log_probs": "ref_log_probs",
    "advantages": "advantages",
}


def convert(dump, samples_per_prompt=None):
    """The arrays of one dump, by name."""
    if dump.get("format_version") != 2:
        raise SystemExit(f"format_version is {dump.get('format_version')}: this script reads version 2")
    samples = dump["samples"]
    lengths = [int(sample["response_lengths"]) for sample in samples]
    prompts = [np.asarray(sample["tokens"])[: -length or None] for sample, length in zip(samples, lengths, strict=True)]
    tokens = [np.asarray(sample["tokens"])[len(prompt) :] for sample, prompt in zip(samples, prompts, strict=True)]
    arrays = {"lengths": np.array(lengths), "tokens": np.concatenate(tokens).astype(np.int64)}
    for name, key in FIELDS.items():
        if all(sample.get(key) is not None for sample in samples):
            arrays[name] = np.concatenate([numbers(sample[key]) for sample in samples])
    if all(sample.get("loss_masks") is not None for sample in samples):
        arrays["mask"] = np.concatenate([numbers(sample["loss_masks"]) for sample in samples]).astype(np.int8)
    places = [sample.get("rollout_position", index) for index, sample in enumerate(samples)]
    if dump.get("raw_reward") is not None:
        arrays["reward"] = numbers(dump["raw_reward"])[places]
    elif all(sample.get("rewards") is not None for sample in samples):
        arrays["reward"] = np.array([float(sample["rewards"]) for sample in samples])
    arrays["group"] = np.array(
        [place // samples_per_prompt for place in places] if samples_per_prompt else [label(prompt) for prompt in prompts]
    )
    arrays["step"] = np.full(len(samples), int(dump["rollout_id"]))
    return arrays


def numbers(values):
    """A tensor or a list as numbers; bfloat16 as float32."""
    return torch.as_tensor(values).detach().float().cpu().numpy().reshape(-1)


def label(prompt):
    """A whole number that is equal for equal prompts."""
    return int.from_bytes(hashlib.blake2b(str(prompt.tolist()).encode(), digest_size=7).digest(), "little")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dumps", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, required=True, help="a folder")
    parser.add_argument("--samples-per-prompt", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--vocab-size", type=int)
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    header = {"rlkl_rollouts": 1, "temperature": options.temperature, "vocab_size": options.vocab_size}
    for path in options.dumps:
        dump = torch.load(path, map_location="cpu", weights_only=False)
        arrays = convert(dump, options.samples_per_prompt)
        np.savez(options.to / f"{path.stem}.npz", **arrays, **{key: each for key, each in header.items() if each is not None})


if __name__ == "__main__":
    main()
