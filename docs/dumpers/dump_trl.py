"""Write the rollouts of TRL's GRPOTrainer for `rlkl diagnose`, as JSON lines.

    from dump_trl import DumpingGRPOTrainer as GRPOTrainer

Each process writes `<output_dir>/rollouts/rank_<R>.jsonl`, a line for each sequence of each update. Tried with TRL 1.9 to 1.16;
with use_liger_kernel older releases compute no log-probabilities, and nothing is written.

- log_probs: the trainer's, in the loss of the update. ref_log_probs: where beta > 0. TRL divides logits by the temperature, so
  these are those of the policy at the temperature of the header.
- sampler_log_probs: vLLM's, where it samples; else the trainer's when it sampled, where samples are used for several updates.
- reward: the weighted sum. A completion that no reward function scores is left out.
- group: a label of the prompt's tokens.
"""

import hashlib
import json
from pathlib import Path

import torch
from trl import GRPOTrainer


class DumpingGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that writes the sequences of each update, with their log-probabilities."""

    def _calculate_rewards(self, *args, **kwargs):
        rewards = super()._calculate_rewards(*args, **kwargs)  # of all processes
        weighted = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        self._rewards = weighted.masked_fill(rewards.isnan().all(dim=1), torch.nan)
        return rewards

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        output["dumped_rewards"] = self._rewards.chunk(self.accelerator.num_processes)[self.accelerator.process_index]
        return output

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._log_probs = result[0]
        return result

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        if self.model.training:
            self._dump(inputs, self._log_probs)
        return loss

    def _dump(self, inputs, log_probs):
        path = Path(self.args.output_dir) / "rollouts" / f"rank_{self.accelerator.process_index}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        tokens, mask = inputs["completion_ids"], inputs["completion_mask"] * inputs.get("tool_mask", 1)
        sampler = inputs.get("sampling_per_token_logps", inputs.get("old_per_token_logps"))
        by_name = {"log_probs": log_probs, "sampler_log_probs": sampler, "ref_log_probs": inputs.get("ref_per_token_logps")}
        if inputs["advantages"].dim() == 2:
            by_name["advantages"] = inputs["advantages"]
        is_new = not hasattr(self, "_dumped")
        self._dumped = True
        with path.open("w" if is_new else "a", encoding="utf-8") as file:
            if is_new:
                file.write(json.dumps(self._dump_header()) + "\n")
            for row in range(len(tokens)):
                if inputs["dumped_rewards"][row].isnan():
                    continue
                length = int(inputs["completion_mask"][row].sum())
                prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
                record = {
                    "tokens": tokens[row][:length].tolist(),
                    "mask": [int(each) for each in mask[row][:length].tolist()],
                    "reward": float(inputs["dumped_rewards"][row]),
                    "group": hashlib.blake2b(str(prompt).encode(), digest_size=8).hexdigest(),
                    "step": self.state.global_step,
                }
                for name, values in by_name.items():
                    if values is not None:
                        record[name] = [float(f"{each:.7g}") for each in values[row][:length].detach().float().tolist()]
                record.setdefault("advantages", float(inputs["advantages"][row].reshape(-1)[0]))
                file.write(json.dumps(record) + "\n")

    def _dump_header(self):
        config, args = self.model.config, self.args
        vocabulary = getattr(config, "vocab_size", None) or config.get_text_config().vocab_size
        header = {"rlkl_rollouts": 1, "temperature": args.temperature, "top_p": args.top_p, "top_k": args.top_k or 0}
        header |= {"vocab_size": vocabulary, "model": str(config._name_or_path)}
        is_tempered_alone = args.top_p == 1 and not args.top_k
        return header | ({"reported": "processed"} if args.use_vllm or is_tempered_alone else {})
