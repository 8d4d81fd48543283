"""What tests share: random tasks, plain enumeration, and names that are hard to write."""

import functools
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rlkl import settings, tasks
from rlkl.config.build import build
from rlkl.config.overrides import config_directory
from rlkl.config.resolve import resolve
from rlkl.divergences import Params
from rlkl.runs.folder import artifacts
from rlkl.runs.store import checked_files, run_store
from rlkl.sweeps import scheduler
from rlkl.tasks import Automaton, Task
from rlkl.training import sampled_losses, spec


def content(folder: Path, *left_out: str) -> dict[str, bytes]:
    """The files below a folder, but for what names a time or a folder."""
    names = {"multirun.yaml", "hydra.yaml", "summary.json", *left_out}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in names
    }


PARAMS = Params(0.5)
CONFIGS = config_directory()


def choices(group: str) -> list[str]:
    return sorted(str(path.relative_to(CONFIGS / group).with_suffix("")) for path in (CONFIGS / group).rglob("*.yaml"))


SHIPPED = [
    [f"{group}={choice}"]
    for group in ("task", "policy", "algorithm", "penalty", "optimizer", "tracking", "experiment", "reward_shaping")
    for choice in choices(group)
    if choice != "plugin"
]


OPTIONAL = {
    "optimizer.max_grad_norm", "algorithm.entropy_coef", "algorithm.group_size", "algorithm.scale_advantages", "algorithm.std",
    "algorithm.pass_k", "algorithm.max_log_odds", "stop_kl", "reference.temperature",
    *(f"rollout.{key}" for key in ("dtype", "rounded", "temperature", "top_k", "top_p", "min_p", "reported", "dropout")),
    "reward_shaping.threshold", "reward_shaping.weight",
    *(f"decoding.{key}" for key in ("temperature", "top_k", "top_p", "min_p")),
    *(f"penalty.{key}" for key in ("target_kl", "beta_end", "clamp", "truncation", "importance_min", "kl_mask_limit")),
    "penalty.top_k", "penalty.top_k_of", "penalty.top_k_tail",
    *(f"algorithm.{key}" for key in ("clip_low", "clip_high", "clip_ratio_c", "tau_pos", "tau_neg")),
    *(f"algorithm.{key}" for key in ("cov_share", "cov_low", "cov_high", "kl_coef")),
}  # fmt: skip


HOSTILE = [
    "", " ", " a ", "#", "# the 3 least likely of 9 outcomes are left out", "F#,A", '"', '""', 'a "b", c', "a\nb", "a\r\nb",
    "nan", "NaN", "NA", "N/A", "null", "None", "inf", "-inf", "007", "1e3", "1_000", "+0.5", "٣", "²", "True", "\u202ecba",
    "\r", "\u2028",
    "\t", "\x00", "\x1b[31mred", "$a$", "[bold]x[/]", ":smile:", "x" * 100_000, "a,b", "\\", "\ufeff", "é", "e\u0301", "\x85",
]  # fmt: skip


C3 = ("task=bandit/custom", "task.reward=[0,1,0.5]", "task.reference=[0.7,0.1,0.2]", "steps=2", "tracking=none")


KINKED = {"total_variation", "root_pearson"}  # not differentiable where policy and reference are equal
DEFINITIONS = {  # of probabilities, written out apart from the generators
    "kl_pi_ref": lambda q, p: np.sum(q * np.log(q / p)),
    "kl_ref_pi": lambda q, p: np.sum(p * np.log(p / q)),
    "alpha": lambda q, p: (np.sum(q**0.5 * p**0.5) - 1) / (0.5 * -0.5),
    "jensen_shannon": lambda q, p: 0.5 * np.sum(q * np.log(2 * q / (p + q))) + 0.5 * np.sum(p * np.log(2 * p / (p + q))),
    "hellinger": lambda q, p: 0.5 * np.sum((np.sqrt(q) - np.sqrt(p)) ** 2),
    "pearson": lambda q, p: np.sum((q - p) ** 2 / p),
    "root_pearson": lambda q, p: np.sqrt(np.sum((q - p) ** 2 / p)),
    "neyman": lambda q, p: np.sum((q - p) ** 2 / q),
    "total_variation": lambda q, p: 0.5 * np.sum(np.abs(q - p)),
    "kl_chi2": lambda q, p: np.sum(q * np.log(q / p)) + 0.5 * (np.sum(q**2 / p) - 1),
    "mixed": lambda q, p: 0.5 * np.sum((q - p) * np.log(q / p)),
}


def run_of(task, divergence: str = "kl_pi_ref") -> spec.Run:
    """A run on a task, for its settings to be replaced."""
    chosen = resolve(settings.Settings(penalty=settings.PenaltySettings(divergence)), task)
    return spec.make_run(chosen, jax.tree.map(jnp.asarray, task))


def short_task(seed: int, horizon: int):
    """A random automaton of two or three tokens, all legal."""
    draw = np.random.default_rng(seed)
    states, vocabulary = 3, 3
    automaton = tasks.Automaton(draw.integers(0, states + 1, size=(states, vocabulary)), states + 1, horizon)
    return tasks.Task(automaton, np.zeros(states + 1), random_rows(draw, automaton.legal), np.zeros(()), np.arange(3.0)), draw


PLAIN = {"algorithm": {"name": "rloo"}, "steps": 60, "log_every": 2, "batch_size": 8}
TASK = {"name": "bandit/random", "size": 3}
WHOLE = checked_files.Faults(pytest.fail)  # nothing is wrong with the store


def job(seed: int, beta: float = 0.1, **plain) -> scheduler.Job:
    made = build({"task": TASK, **PLAIN, "penalty": {"beta": beta}, "seed": seed, **plain})
    return scheduler.Job(run_store.key(made), made)


def stored(root, key) -> run_store.Entry | None:
    """What the store has of a job."""
    return run_store.read(root, key, artifacts.names(job(0).built), WHOLE)


def finished(jobs, root, **options) -> dict[str, run_store.Entry]:
    found = {}
    for group in scheduler.groups(jobs):
        for entries in scheduler.train_group(group, root, lambda told: None, WHOLE, **options):
            found |= dict(entries)
    return found


def files(entry: run_store.Entry) -> dict[str, bytes]:
    """What is the same to the last bit: all but the summary's seconds."""
    return {name: content for name, content in entry.files.items() if name != "summary.json"}


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def seal(file, content: bytes) -> None:
    """Write what someone who knows the checksum would write."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(checked_files.content_checksum(file, content) + content)


CLONE = Path(__file__).parent.parent
CHAIN = CLONE / "tests" / "chain.json"
README = (CLONE / "README.md").read_text()
EXAMPLE = re.search(r"```python\n(# my_penalty\.py\n.*?)```", README, re.S)


def drawn(seed: int, typicality: float = 0.0):
    draw = np.random.default_rng(seed)
    task = shortened(random_task(draw, typicality))
    log_ref = np.broadcast_to(task.log_reference, (task.automaton.horizon, *task.log_reference.shape))
    log_pi = random_rows(draw, np.broadcast_to(task.automaton.legal, log_ref.shape))
    return task, log_pi, log_ref


POWERS = ("alpha", "hellinger", "pearson", "neyman")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def random_rows(draw: np.random.Generator, legal: np.ndarray, concentration: float = 1.0) -> np.ndarray:
    """Log-probabilities over the legal tokens of each row."""
    weight = np.where(legal, draw.gamma(concentration, size=legal.shape) + 1e-6, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(weight / weight.sum(-1, keepdims=True))


def random_task(draw: np.random.Generator, typicality: float = 0.0) -> Task:
    """A task of 2-8 states, 2-6 tokens and horizon 1-6, some tokens illegal, some ending early."""
    decisions, vocabulary, horizon = int(draw.integers(1, 6)), int(draw.integers(2, 7)), int(draw.integers(1, 7))
    states = decisions + int(draw.integers(1, 4))
    following = draw.integers(0, states, size=(decisions, vocabulary))
    illegal = draw.random(following.shape) < 0.2
    illegal[:, 0] = False
    following = np.where(illegal, -1, following)
    automaton = Automaton(following, states, horizon)
    return Task(
        automaton,
        draw.normal(size=states),
        random_rows(draw, automaton.legal),
        np.asarray(typicality),
        np.arange(vocabulary, dtype=float),
    )


def shortened(task: Task, most: int = 2000) -> Task:
    """The task on the longest horizon, up to its own, with at most `most` sequences."""
    automaton = task.automaton
    for horizon in range(automaton.horizon, 0, -1):
        shorter = Automaton(automaton.next_state, automaton.states, horizon)
        if automaton.vocabulary**horizon <= most or len(sequences(shorter)) <= most:
            break
    return Task(shorter, *(jax.numpy.asarray(leaf) for leaf in jax.tree.leaves(task)))


@functools.cache
def sequences(automaton: Automaton) -> list[tuple[tuple[tuple[int, int, int], ...], int]]:
    """Every legal sequence: its (position, state, token) triples and its end state, by plain recursion."""
    found = []

    def extend(path, state):
        if state >= automaton.decisions or len(path) == automaton.horizon:
            found.append((tuple(path), state))
            return
        for token, after in enumerate(automaton.next_state[state]):
            if after >= 0:
                extend([*path, (len(path), state, token)], int(after))

    extend([], automaton.starts[0])
    return found


def sequence_log_probability(table: np.ndarray, automaton: Automaton) -> np.ndarray:
    """log pi(y) of every legal sequence, from a [T, D, V] table."""
    return np.array([sum(table[at] for at in path) for path, _ in sequences(automaton)])


def sampled_loss(run: spec.Run, positions, batch, reported=None):
    """The loss of a run's sampled step on a batch, with a baseline of zero."""
    objective, zero = spec.objective(run), jnp.zeros((), positions.log_pi.dtype)
    learned = sampled_losses.experience(run.settings, objective, positions, batch, zero, reported)
    return sampled_losses.surrogate(run.settings, objective.beta, positions, batch, learned)


DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float8_e4m3": ml_dtypes.float8_e4m3fn}


def nearest(x: np.ndarray, dtype: str) -> np.ndarray:
    """By ml_dtypes, from numbers that it rounds once; e4m3 saturates."""
    most = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    return (np.clip(x, -most, most) if dtype == "float8_e4m3" else x).astype(DTYPES[dtype]).astype(x.dtype)
