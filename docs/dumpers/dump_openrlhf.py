"""Write the rollouts of OpenRLHF's PPO trainer for `rlkl diagnose`, as JSON lines.

    ROLLOUTS=/data/rollouts python docs/dumpers/dump_openrlhf.py <the arguments of openrlhf.cli.train_ppo_ray>

This starts Ray with a hook that lets each of its processes call `install`, and then runs openrlhf.cli.train_ppo_ray. Each batch
writes `$ROLLOUTS/step_<N>.jsonl`. OpenRLHF's trainer needs GPUs: tried were the hook in a process of Ray, and the experience
maker of the installed OpenRLHF 0.11.2 with models that return fixed numbers, not a whole run.

- log_probs: the trainer's before the update. ref_log_probs: the reference's, also where OpenRLHF forgets them, which it does
  with the penalty in the reward.
- sampler_log_probs: vLLM's, where OpenRLHF asks for them (for its importance sampling). Say reported=raw or processed yourself.
- reward: before the penalty and any baseline. group: the number of the prompt in its batch.
"""

import importlib.util
import json
import os
import runpy
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


def install():
    """Let OpenRLHF's experience maker write each batch of experience."""
    when_imported("openrlhf.trainer.ppo_utils.experience_maker", lambda module: wrap(module.RemoteExperienceMaker))


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


def wrap(Maker):
    """Let a class of experience makers write each batch that it makes."""
    flatten, make, make_batch = Maker._flatten_results, Maker.make_experience, Maker.make_experience_batch

    def keep_results(self, refs, duplicate_factor):
        results = flatten(self, refs, duplicate_factor)
        self.dumped_results.append(results)  # of the actor, then of the reference
        return results

    def keep_reference(self, samples_list):
        self.dumped_results = []
        experiences = make(self, samples_list)
        self.dumped = [(each.rewards.clone(), ref) for each, ref in zip(experiences, self.dumped_results[1], strict=True)]
        return experiences

    def dump_batch(self, rollout_samples):
        experiences = make_batch(self, rollout_samples)
        self.dumped_step = getattr(self, "dumped_step", -1) + 1
        dump(experiences, self.dumped, self.dumped_step, self.strategy.args)
        return experiences

    Maker._flatten_results, Maker.make_experience, Maker.make_experience_batch = keep_results, keep_reference, dump_batch


def dump(experiences, kept, step, args):
    """Write a batch. kept: for each experience its rewards [B] and the reference's log-probabilities [B, A] or None."""
    header = {"rlkl_rollouts": 1, "temperature": args.rollout.temperature, "top_p": args.rollout.top_p}
    header |= {"model": str(args.actor.model_name_or_path)}
    path = Path(os.environ.get("ROLLOUTS", "rollouts")) / f"step_{step}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(header) + "\n")
        for experience, (rewards, reference) in zip(experiences, kept, strict=True):
            for record in records(experience, rewards, reference, step, args.rollout.n_samples_per_prompt):
                file.write(json.dumps(record) + "\n")


def records(experience, rewards, reference, step, samples_per_prompt):
    """The sequences of an experience, in rlkl's format; log-probabilities are of sequences[:, 1:], as action_mask is."""
    tensors = {
        "log_probs": experience.action_log_probs,
        "sampler_log_probs": experience.rollout_log_probs,
        "ref_log_probs": reference,
        "advantages": experience.advantages,
    }
    for row in range(len(experience.sequences)):
        mask = experience.action_mask[row].bool()
        record = {
            "tokens": experience.sequences[row][1:][-len(mask) :][mask].tolist(),
            "reward": float(rewards[row]),
            "group": int(experience.index[row]) // samples_per_prompt,
            "step": step,
        }
        for name, values in tensors.items():
            if values is not None:
                record[name] = [float(f"{each:.7g}") for each in values[row][mask].float().tolist()]
        yield record


if __name__ == "__main__":
    import ray

    names = ("TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "ROLLOUTS")
    env_vars = {name: os.environ[name] for name in names if name in os.environ}
    env_vars["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.resolve()), os.environ.get("PYTHONPATH", "")])
    ray.init(runtime_env={"worker_process_setup_hook": "dump_openrlhf.install", "env_vars": env_vars})
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
