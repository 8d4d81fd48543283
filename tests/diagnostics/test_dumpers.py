"""Scripts that write rollouts in rlkl's format from inside other libraries. Skipped where a library is not installed."""

import hashlib
import importlib
import importlib.util
import json
import pickle
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.diagnostics.test_rollout_files import joined, read, refused

DUMPERS = Path(__file__).parents[2] / "docs" / "dumpers"
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, DUMPERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments) -> None:
    subprocess.run([sys.executable, DUMPERS / f"{name}.py", *map(str, arguments)], check=True)


@pytest.mark.parametrize("name", ["from_slime", "from_skyrl", "dump_trl", "dump_verl", "dump_openrlhf"])
def test_a_script_does_not_need_rlkl(name):
    text = (DUMPERS / f"{name}.py").read_text()
    assert "import rlkl" not in text and "from rlkl" not in text


@pytest.mark.parametrize("name", ["dump_verl", "dump_openrlhf"])
def test_a_hook_waits_for_the_import_of_what_it_patches(name, tmp_path, monkeypatch):
    (tmp_path / "imported_later.py").write_text("value = 1")
    monkeypatch.syspath_prepend(tmp_path)
    hook = script(name).when_imported
    for expected in (2, 3):  # before the import, and after it
        hook("imported_later", lambda module: setattr(module, "value", module.value + 1))
        assert ("imported_later" in sys.modules) == (expected == 3)
        assert importlib.import_module("imported_later").value == expected
    del sys.modules["imported_later"]


def slime_dump(torch):
    """A dump of three samples in the layout of slime's _build_dump_payload."""
    samples = []
    for place, length in enumerate([2, 3, 1]):
        samples.append(
            {
                "data_parallel_rank": 0, "sample_index": 10 + place, "rollout_position": 2 - place,
                "tokens": torch.tensor([7, 7 + place // 2, *range(20, 20 + length)]), "response_lengths": length,
                "total_lengths": 2 + length, "loss_masks": torch.tensor([1] * (length - 1) + [0] if length > 1 else [1]),
                "rewards": 0.5, "log_probs": -torch.arange(1.0, length + 1), "kl": torch.zeros(length),
                "rollout_log_probs": (-torch.arange(1.0, length + 1) - 0.5).bfloat16(),
                "ref_log_probs": -torch.arange(1.0, length + 1) - 2, "advantages": torch.full((length,), 0.25),
            }
        )  # fmt: skip
    return {"format_version": 2, "rollout_id": 4, "rank": 0, "samples": samples, "dp_shards": [], "raw_reward": [0, 1, 2]}


def test_slime(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(slime_dump(torch), tmp_path / "4.pt")
    assert "pickle" in refused(tmp_path / "4.pt")
    run("from_slime", tmp_path / "4.pt", "--to", tmp_path / "out", "--vocab-size", 50)
    [header], [chunk] = read(tmp_path / "out")
    assert header.vocab_size == 50
    np.testing.assert_array_equal(chunk.lengths, [1, 2, 1])
    np.testing.assert_array_equal(chunk.tokens, [20, 20, 21, 20])
    np.testing.assert_array_equal(chunk.log_probs, [-1, -1, -2, -1])
    np.testing.assert_array_equal(chunk.sampler_log_probs, [-1.5, -1.5, -2.5, -1.5])
    np.testing.assert_array_equal(chunk.ref_log_probs, [-3, -3, -4, -3])
    np.testing.assert_array_equal(chunk.advantages, [0.25] * 4)
    np.testing.assert_array_equal(chunk.reward, [2, 1, 0])
    np.testing.assert_array_equal(chunk.step, [4] * 3)
    assert chunk.group[0] == chunk.group[1] != chunk.group[2]
    module, dump = script("from_slime"), slime_dump(torch)
    np.testing.assert_array_equal(module.convert(dump, 2)["group"], [1, 0, 0])
    del dump["samples"][1]["ref_log_probs"], dump["raw_reward"]
    assert "ref_log_probs" not in module.convert(dump) and module.convert(dump)["reward"].tolist() == [0.5] * 3
    with pytest.raises(SystemExit, match="format_version is 1"):
        module.convert(dump | {"format_version": 1})


class TrainingInputBatch(dict):
    """A stand-in for SkyRL's class: a mapping of tensors, with metadata."""

    metadata = None


def test_skyrl(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    batch = TrainingInputBatch(
        sequences=torch.tensor([[0, 7, 20, 21], [7, 20, 21, 22], [8, 9, 7, 20], [0, 7, 20, 21]]),
        attention_mask=torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]),
        response_mask=torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1]]),
        loss_mask=torch.tensor([[0.0, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]),
        action_log_probs=-torch.tensor([[0.0, 1, 2], [3, 4, 5], [0, 0, 6], [0, 1, 2]]).bfloat16(),
        base_action_log_probs=-torch.tensor([[0.0, 2, 3], [4, 5, 6], [0, 0, 7], [0, 2, 3]]),
        rollout_logprobs=None,
        advantages=torch.full((4, 3), 0.5),
        values=None,
    )
    path = tmp_path / "global_step_3_training_input.pkl"
    path.write_bytes(pickle.dumps(batch))
    assert "pickle" in refused(path)
    monkeypatch.setattr(sys, "argv", ["from_skyrl", str(path), "--to", str(tmp_path / "out"), "--temperature", "0.5"])
    script("from_skyrl").main()
    [header], [chunk] = read(tmp_path / "out")
    assert header.temperature == 0.5 and chunk.sampler_log_probs is None
    np.testing.assert_array_equal(chunk.lengths, [2, 2, 1])
    np.testing.assert_array_equal(chunk.tokens, [20, 21, 20, 22, 20])
    np.testing.assert_array_equal(chunk.log_probs, [-1, -2, -3, -5, -6])
    np.testing.assert_array_equal(chunk.ref_log_probs, [-2, -3, -4, -6, -7])
    np.testing.assert_array_equal(chunk.step, [3] * 3)
    assert chunk.group[0] == chunk.group[1] != chunk.group[2]


WORDS = ["<pad>", "<eos>", *"abcdefghijkl"]
PROMPTS = ["a b", "c d e"]
TEMPERATURE = 0.7


def tiny_model(folder: Path):
    """A random Llama of 14 words with its tokenizer, saved in a folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    config = LlamaConfig(vocab_size=len(WORDS), initializer_range=0.5, **sizes, **special)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def exact(model, prompt: list[int], completion: list[int]) -> np.ndarray:
    """log softmax(logits / temperature) of the completion's tokens, in float64, from a forward pass without padding."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0].double() / TEMPERATURE
    rows = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return rows[torch.arange(len(completion)), completion].numpy()


@pytest.fixture(scope="module")
def trl_run(tmp_path_factory):
    """A short run of GRPO with two updates a batch: its folder, tokenizer, the models before each update, and TRL's logs."""
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    dump = script("dump_trl")  # which imports trl before transformers, as older releases of it need
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig

    folder = tmp_path_factory.mktemp("trl")
    tokenizer = tiny_model(folder / "model")
    states = []

    class Keep(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            states.append({name: value.detach().clone() for name, value in model.state_dict().items()})

    def count(completion_ids, **kwargs):
        return [float(ids.count(5)) if len(ids) > 1 else None for ids in completion_ids]

    def one(completion_ids, **kwargs):
        return [1.0] * len(completion_ids)

    config = GRPOConfig(
        output_dir=str(folder / "out"), use_cpu=True, bf16=False, beta=0.3, temperature=TEMPERATURE, max_completion_length=6,
        per_device_train_batch_size=8, num_generations=4, num_iterations=2, max_steps=4, learning_rate=0.005, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, seed=1, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = dump.DumpingGRPOTrainer(
        model=str(folder / "model"), reward_funcs=[count, one], args=config,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 8}), processing_class=tokenizer, callbacks=[Keep()],
    )  # fmt: skip
    trainer.train()
    models = []
    for state in [AutoModelForCausalLM.from_pretrained(folder / "model").state_dict(), *states]:
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64).eval()
        model.load_state_dict(state)
        models.append(model.double())
    return SimpleNamespace(folder=folder / "out" / "rollouts", tokenizer=tokenizer, reference=models[0], policies=models[1:],
                           is_weighted=getattr(config, "use_bias_correction_kl", False),
                           logs=[each for each in trainer.state.log_history if "kl" in each])  # fmt: skip


def test_trl_writes_what_its_models_say(trl_run):
    [header], chunks = read(trl_run.folder)
    chunk = joined(chunks)
    assert (header.temperature, header.reported, header.vocab_size) == (TEMPERATURE, "processed", len(WORDS))
    np.testing.assert_array_equal(np.unique(chunk.step, return_counts=True), [[0, 1, 2, 3], [8] * 4])
    prompts = {}
    for prompt in PROMPTS:
        ids = trl_run.tokenizer(prompt)["input_ids"]
        prompts[hashlib.blake2b(str(ids).encode(), digest_size=8).hexdigest()] = ids
    records = [json.loads(line) for line in (trl_run.folder / "rank_0.jsonl").read_text().splitlines()[1:]]
    assert len({len(record["tokens"]) for record in records}) > 1
    kl, totals = defaultdict(list), defaultdict(float)
    for record in records:
        prompt, step = prompts[record["group"]], record["step"]
        policy, sampler = trl_run.policies[step], trl_run.policies[step - step % 2]
        expected = exact(policy, prompt, record["tokens"])
        reference = exact(trl_run.reference, prompt, record["tokens"])
        np.testing.assert_allclose(record["log_probs"], expected, atol=2e-5)
        np.testing.assert_allclose(record["ref_log_probs"], reference, atol=2e-5)
        np.testing.assert_allclose(record["sampler_log_probs"], exact(sampler, prompt, record["tokens"]), atol=2e-5)
        assert record["reward"] == 1 + (record["tokens"].count(5) if len(record["tokens"]) > 1 else 0)
        kl[step].append((expected - reference).sum())
        totals[step, record["group"]] += record["advantages"]
    assert max(abs(total) for total in totals.values()) < 1e-3  # advantages of a group add up to 0
    ends = np.cumsum(chunk.lengths)
    u = np.add.reduceat(chunk.log_probs - chunk.ref_log_probs, ends - chunk.lengths)
    for step in range(4):
        assert u[chunk.step == step].mean() == pytest.approx(np.mean(kl[step]), abs=1e-4)
    assert np.mean(kl[0]) == pytest.approx(0, abs=1e-6) and abs(np.mean(kl[3])) > 0.05


def test_trl_logs_the_k3_of_the_tokens_that_were_written(trl_run):
    chunk = joined(read(trl_run.folder)[1])
    steps = np.repeat(chunk.step, chunk.lengths)
    u = chunk.ref_log_probs - chunk.log_probs
    for step, logged in enumerate(trl_run.logs):
        here = steps == step
        weight = np.exp(chunk.log_probs - chunk.sampler_log_probs)[here] if trl_run.is_weighted else 1.0
        assert logged["kl"] == pytest.approx((weight * (np.expm1(u) - u)[here]).mean(), rel=1e-3, abs=1e-6)


def verl_tensors(torch):
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    return {
        "prompts": torch.zeros(2, 2, dtype=torch.long),
        "responses": torch.tensor([[5, 6, 0], [7, 0, 0]]),
        "response_mask": mask,
        "old_log_probs": -torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]),
        "rollout_log_probs": -torch.tensor([[1.5, 2.5, 0.0], [3.5, 0.0, 0.0]]),
        "ref_log_prob": -torch.tensor([[2.0, 3.0, 0.0], [4.0, 0.0, 0.0]]),
        "advantages": torch.tensor([[0.5, 0.5, 0.0], [-0.5, 0.0, 0.0]]),
        "token_level_scores": torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.0, 0.0]]),
    }


def assert_of_verl(folder: Path):
    [header], [chunk] = read(folder)
    assert header[:4] == (0.5, 0.9, None, "processed") and header.model == "model"
    np.testing.assert_array_equal(chunk.lengths, [2, 1])
    np.testing.assert_array_equal(chunk.tokens, [5, 6, 7])
    np.testing.assert_array_equal(chunk.log_probs, [-1, -2, -3])
    np.testing.assert_array_equal(chunk.sampler_log_probs, [-1.5, -2.5, -3.5])
    np.testing.assert_array_equal(chunk.ref_log_probs, [-2, -3, -4])
    np.testing.assert_array_equal(chunk.advantages, [0.5, 0.5, -0.5])
    np.testing.assert_array_equal(chunk.reward, [1, 0.25])
    np.testing.assert_array_equal(chunk.step, [7, 7])
    assert chunk.group[0] == chunk.group[1]


class Rollout(dict):
    """Settings by key and by attribute, as OmegaConf has them."""

    __getattr__ = dict.__getitem__


ROLLOUT = Rollout(temperature=0.5, top_p=0.9, top_k=-1, logprobs_mode="processed_logprobs")
VERL = SimpleNamespace(rollout=ROLLOUT, model=SimpleNamespace(path="model"))


def test_verl_writes_the_tensors_of_a_step(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("ROLLOUTS", str(tmp_path / "out"))
    script("dump_verl").dump(verl_tensors(torch), np.array(["a", "a"], object), 7, VERL)
    assert_of_verl(tmp_path / "out")


def verl_trainers():
    """verl's trainers, with stand-ins for the servers that they import."""
    pytest.importorskip("tensordict")
    from experiments.conformance.live.stand_in import stand_in

    stand_in("uvicorn", "fastapi", "aiohttp", "transfer_queue")
    pytest.importorskip("verl")
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    return DataProto, RayPPOTrainer, PPOTrainer


@pytest.mark.parametrize("generation", ["v0", "v1"])
def test_the_hook_of_verl_writes_before_the_update(generation, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    DataProto, old, new = verl_trainers()
    monkeypatch.setenv("ROLLOUTS", str(tmp_path / "out"))
    updated = []
    for trainer in (old, new):
        monkeypatch.setattr(trainer, "_update_actor", lambda self, batch, *_: updated.append(batch))
    script("dump_verl").install()
    trainer = SimpleNamespace(global_steps=7, config=SimpleNamespace(actor_rollout_ref=VERL))
    tensors = verl_tensors(torch)
    if generation == "v0":
        batch = DataProto.from_dict(tensors=tensors, non_tensors={"uid": np.array(["a", "a"], object)})
        old._update_actor(trainer, batch)
    else:
        import transfer_queue
        from tensordict import NonTensorStack, TensorDict

        lengths = tensors["response_mask"].sum(dim=1).tolist()
        rows = {name: [row[:length] for row, length in zip(values, lengths, strict=True)] for name, values in tensors.items()}
        rows["rm_scores"] = rows.pop("token_level_scores")
        nested = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in rows.items()}
        data = TensorDict(nested | {"uid": NonTensorStack("a", "a")}, batch_size=[2])
        fetched = []

        def kv_batch_get(keys, partition_id, select_fields):
            fetched.append((keys, partition_id))
            return data.select(*select_fields)

        monkeypatch.setattr(transfer_queue, "kv_batch_get", kv_batch_get, raising=False)
        batch = SimpleNamespace(keys=["a_0", "a_1", "x"], tags=[{}, {}, {"is_padding": True}], partition_id="train")
        new._update_actor(trainer, batch, {})
        assert fetched == [(["a_0", "a_1"], "train")]
    assert updated == [batch]
    assert_of_verl(tmp_path / "out")


@pytest.mark.parametrize("use_loss", [False, True])
def test_openrlhf_writes_a_batch_of_experience(use_loss, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("ray")
    from experiments.conformance.live.stand_in import stand_in

    stand_in("deepspeed", "flash_attn", "vllm", "aiohttp")
    maker = pytest.importorskip("openrlhf.trainer.ppo_utils.experience_maker")
    from openrlhf.trainer.ppo_utils.experience import Experience

    monkeypatch.setattr(maker, "ray", SimpleNamespace(put=lambda value: value, get=lambda value: value))
    for name in ("_flatten_results", "make_experience", "make_experience_batch"):
        monkeypatch.setattr(maker.RemoteExperienceMaker, name, getattr(maker.RemoteExperienceMaker, name))
    monkeypatch.setenv("ROLLOUTS", str(tmp_path / "out"))
    script("dump_openrlhf").install()

    def group(shift):
        """A model whose log-probability of a token is -(token + shift) / 10."""

        def forward(method_name, sequences, action_mask, attention_mask):
            return [[-(each[:, 1:] + shift) / 10] for each in sequences]

        return SimpleNamespace(async_run_method_batch=forward)

    args = SimpleNamespace(
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
        train=SimpleNamespace(dynamic_batch_enable=False, colocate_all=False, colocate_actor_ref=False),
        algo=SimpleNamespace(
            kl=SimpleNamespace(use_loss=use_loss, estimator="k3"),
            advantage=SimpleNamespace(estimator="reinforce_baseline", gamma=1.0, lambd=1.0, no_std_norm=True),
        ),
        rollout=SimpleNamespace(n_samples_per_prompt=2, micro_batch_size=2, temperature=0.5, top_p=0.9),
        reward=SimpleNamespace(clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None),
        actor=SimpleNamespace(model_name_or_path="model"),
    )
    making = SimpleNamespace(
        args=args, strategy=SimpleNamespace(args=args), tokenizer=SimpleNamespace(pad_token_id=0), critic_model_group=None,
        actor_model_group=group(0), initial_model_group=group(5), reward_model_group=None,
        kl_ctl=SimpleNamespace(value=0.0), advantage_estimator="reinforce_baseline",
    )  # fmt: skip
    maker_of_batches = object.__new__(maker.RemoteExperienceMaker)
    maker_of_batches.__dict__ |= vars(making)
    samples = []
    for row, length in enumerate([2, 3, 1, 2]):
        tokens = [8, 9, *range(3, 3 + length)]
        samples.append(
            Experience(
                sequences=torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
                action_mask=torch.tensor([[0] + [1] * length]), rollout_log_probs=-torch.tensor([tokens[1:]]) / 10 - 1,
                rewards=torch.tensor([float(row)]), prompts=["p"], labels=["l"], images=[None], mm_train_inputs=[],
                response_length=torch.tensor([length]), truncated=torch.tensor([False]),
                total_length=torch.tensor([len(tokens)]),
                info={"reward": torch.tensor([float(row)])},
            )
        )  # fmt: skip
    experiences = maker_of_batches.make_experience_batch(samples)
    [header], [chunk] = read(tmp_path / "out" / "step_0.jsonl", reported="raw")
    assert (header.temperature, header.top_p, header.model) == (0.5, 0.9, "model")
    tokens = np.array([3, 4, 3, 4, 5, 3, 3, 4])
    np.testing.assert_array_equal(chunk.lengths, [2, 3, 1, 2])
    np.testing.assert_array_equal(chunk.tokens, tokens)
    np.testing.assert_allclose(chunk.log_probs, -tokens / 10, rtol=1e-6)
    np.testing.assert_allclose(chunk.sampler_log_probs, -tokens / 10 - 1, rtol=1e-6)
    np.testing.assert_allclose(chunk.ref_log_probs, -(tokens + 5) / 10, rtol=1e-6)
    np.testing.assert_array_equal(chunk.reward, [0, 1, 2, 3])
    np.testing.assert_array_equal(chunk.group, [0, 0, 1, 1])
    kept = torch.cat([each.advantages[each.action_mask.bool()] for each in experiences])
    np.testing.assert_allclose(chunk.advantages, kept.numpy(), rtol=1e-6)
    assert (experiences[0].base_action_log_probs is None) != use_loss


def test_a_process_of_ray_takes_the_hook_of_openrlhf(tmp_path):
    """The hook runs in a fresh process that Ray starts."""
    pytest.importorskip("ray")
    pytest.importorskip("openrlhf")
    code = f"""
import os, ray
from pathlib import Path
from experiments.conformance.live.stand_in import stand_in
paths = os.pathsep.join([{str(DUMPERS)!r}, {str(tmp_path)!r}, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={{
    "worker_process_setup_hook": "hooked.install", "env_vars": {{"PYTHONPATH": paths}}}})

@ray.remote
def name():
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
    return RemoteExperienceMaker.make_experience_batch.__name__

print(ray.get(name.remote()))
"""
    hooked = """
from experiments.conformance.live.stand_in import stand_in
stand_in("deepspeed", "flash_attn", "vllm", "aiohttp")
from dump_openrlhf import install
"""
    (tmp_path / "hooked.py").write_text(hooked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1:] == ["dump_batch"], done.stderr
