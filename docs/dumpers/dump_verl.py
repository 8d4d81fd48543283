"""Write the rollouts of verl's PPO trainers for `rlkl diagnose`, as JSON lines.

Put this file where Ray's workers can import it, and let each of them call `install` when it starts:

    python -m verl.trainer.main_ppo ... \\
        +ray_kwargs.ray_init.runtime_env.worker_process_setup_hook=dump_verl.install \\
        +ray_kwargs.ray_init.runtime_env.env_vars.PYTHONPATH=/folder/of/this/file \\
        +ray_kwargs.ray_init.runtime_env.env_vars.ROLLOUTS=/data/rollouts

Each step writes `$ROLLOUTS/step_<N>.jsonl` just before its update of the actor. Written for verl 0.9.1, for its trainer in
verl.trainer.ppo.v1 and the older RayPPOTrainer (verl.trainer.main_ppo_v0, and main_ppo before). verl's trainers need GPUs:
tried were `records` on DataProto and on a TensorDict, and the hook on the classes of verl 0.9.1, not a whole run.

- log_probs: old_log_probs, the trainer's before the update. ref_log_probs: where a KL penalty is on. verl divides logits by the
  temperature, so these are those of the policy at the temperature of the header.
- sampler_log_probs: the rollout engine's, with actor_rollout_ref.rollout.calculate_log_probs=True; processed by default.
- reward: the sum of the scores of a sequence, before any penalty. group: the prompt's uid.
"""

import importlib.util
import json
import os
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

FIELDS = {"log_probs": "old_log_probs", "sampler_log_probs": "rollout_log_probs", "ref_log_probs": "ref_log_prob"}
IN_QUEUE = ["responses", "response_mask", "advantages", "rm_scores", "uid", *FIELDS.values()]


def install():
    """Let verl's trainers write the sequences of each step before they update the actor."""
    when_imported("verl.trainer.ppo.ray_trainer", lambda module: wrap(module.RayPPOTrainer, from_proto))
    when_imported("verl.trainer.ppo.v1.trainer_base", lambda module: wrap(module.PPOTrainer, from_queue))


def when_imported(name, patch):
    """Call `patch` with a module once it was imported.

    Nothing is imported for it: Ray gives a process its GPUs after the hook, and torch must not look for them before.
    """
    if name in sys.modules:
        patch(sys.modules[name])
        return

    class Finder(MetaPathFinder):
        def find_spec(self, imported, path=None, target=None):
            if imported != name:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module

            def execute_and_patch(module):
                execute(module)
                patch(module)

            spec.loader.exec_module = execute_and_patch
            return spec

    sys.meta_path.insert(0, Finder())


def wrap(trainer_class, tensors):
    """Let a trainer's `_update_actor` write its batch first. tensors: of a batch, by name, and its uids."""
    update = trainer_class._update_actor

    def dump_and_update(self, batch, *args, **kwargs):
        dump(*tensors(batch), self.global_steps, self.config.actor_rollout_ref)
        return update(self, batch, *args, **kwargs)

    trainer_class._update_actor = dump_and_update


def from_proto(batch):
    """The tensors of a DataProto, and its uids."""
    return batch.batch, batch.non_tensor_batch["uid"]


def from_queue(batch):
    """The tensors of a batch whose content is in verl's TransferQueue, padded, and its uids."""
    import transfer_queue

    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = transfer_queue.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=IN_QUEUE)
    uids = data.pop("uid").tolist()
    return data.to_padded_tensor(), uids


def dump(tensors, uids, step, config):
    """Write the sequences of a step. config: actor_rollout_ref of verl's configuration."""
    rollout = config.rollout
    header = {"rlkl_rollouts": 1, "temperature": rollout.temperature, "top_p": rollout.top_p, "top_k": rollout.top_k}
    header |= {"model": str(config.model.path)}
    if "rollout_log_probs" in tensors:
        header["reported"] = str(rollout.get("logprobs_mode", "processed_logprobs")).split("_")[0]
    path = Path(os.environ.get("ROLLOUTS", "rollouts")) / f"step_{step}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(header) + "\n")
        file.writelines(json.dumps(record) + "\n" for record in records(tensors, uids, step))


def records(tensors, uids, step):
    """The sequences of a batch, in rlkl's format. tensors: [N, T] by name; padding has a response_mask of 0."""
    scores = tensors["token_level_scores"] if "token_level_scores" in tensors else tensors["rm_scores"]
    for row, uid in enumerate(uids):
        mask = tensors["response_mask"][row].bool()
        record = {
            "tokens": tensors["responses"][row][mask].tolist(),
            "reward": float(scores[row].sum()),
            "group": str(uid),
            "step": int(step),
        }
        for name, key in {**FIELDS, "advantages": "advantages"}.items():
            if key in tensors:
                record[name] = [float(f"{each:.7g}") for each in tensors[key][row][mask].float().tolist()]
        yield record
