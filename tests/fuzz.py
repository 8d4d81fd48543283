"""Random settings over every option and choice: valid, boundary, of the wrong type, huge, tiny, nan, unicode, lists, nested.

`python -m tests.fuzz COUNT [FIRST]` tries COUNT of them, from seed FIRST on, and prints each that is neither built nor refused
in one line that names a key. `trained` trains random valid ones.
"""

import dataclasses
import random
import sys
import time
from pathlib import Path

from rlkl import divergences, settings, tasks
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.config.overrides import config_directory
from rlkl.errors import SettingsError, visible
from rlkl.penalties import options

ROOT = config_directory()
HERE = Path(__file__).parent
GROUPS = ("task", *sorted({*settings.GROUPS, "tracking", "engine", "experiment"} - {"rollout", "decoding"}))
NEEDED = {  # what a choice cannot do without
    "bandit/custom": ["task.reward=[0,1,0.5]", "task.reference=[0.7,0.1,0.2]"],
    "automaton/custom": [f"task.path={HERE / 'chain.json'}"],
    "preference/brackets": ["task.fit_steps=5"],
    "dpo": ["task=preference/words"],
    "gaussian": ["task=bandit/bimodal"],
    "plugin": ["task.name=bandit/random"],
    "mara": ["reward_shaping.threshold=0.5"],
    "typicality": ["reward_shaping.weight=0.5"],
    "smoothing": ["reward_shaping.weight=0.1", "algorithm=rloo"],
    "unlikeliness": ["reward_shaping.weight=0.5", "algorithm=rloo"],
}
# ruff: noqa: SIM905 (text that is split is easier to add to)
NUMBERS = "0 1 2 3 7 -1 0.5 0.1 1e-3 1e-9 0.999 1.5 10 64 1000".split()
HUGE = ["9" * 30, "9" * 400, *"1e6 1e9 1e18 1e300 1.8e308 2147483647 2147483648 4294967295 4294967296".split()]
TINY = "1e-30 1e-300 2.3e-308 1e-310 5e-324 1e-400 -0.0 -1e-300 -1e300".split()
WORDS = ["''", '""', *"null true false nan inf -inf none exact x kl_pi_ref '1' 'null' ???".split()]
TEXT = ["a b", "'a b'", *"ünï 日本語 \u202eabc 😀 a=b $x '$a^2' [bold] '[bold]x' #tag % ~no/x ..".split()]
HOSTILE = ["\x07", "'\x1b[31mred'", "'a\nb'", "'a\tb'", "\udcff", "x" * 300, f"'{'y' * 5000}'", "${seed}", "${no}", "${", "\\"]
LISTS = "[] [1,2] [0,1,0.5] [1] [null] [nan,1] [a,b] [[1,2],[3]] [[]] [''] [1e300,1,1] [-1,1,1] (1,2)".split()
NESTED = "{} {a:1} {a:{b:[1]}} [{a:1}] {name:x} {beta:1} [[[[[[[[]]]]]]]]".split()
POOLS = (NUMBERS, NUMBERS, NUMBERS, WORDS, HUGE, TINY, TEXT, HOSTILE, LISTS, NESTED)
PLAIN = (NUMBERS, NUMBERS, NUMBERS, WORDS)


def choices(group: str) -> list[str]:
    """The names of a config group's files."""
    return sorted(str(path.relative_to(ROOT / group).with_suffix("")) for path in (ROOT / group).rglob("*.yaml"))


CHOICES = {group: choices(group) for group in GROUPS}
ALLOWED = {  # the values that an option names
    f"{group}.{field.name}": [str(value) for value in field.metadata["allowed"]]
    for group, cls in settings.GROUPS.items()
    for field in dataclasses.fields(cls)
    if field.metadata.get("allowed")
}
KEYS = sorted(settings.known_keys() - {"store"})
NAMED = {key.partition(".")[0] for key in KEYS}


def random_overrides(seed: int) -> list[str]:
    """Overrides as a person, or a script of theirs, might give them: mostly of one group, some of them wrong."""
    draw = random.Random(seed)
    task = draw.choice(CHOICES["task"])
    overrides = [f"task={task}", *NEEDED.get(task, [])]
    for group in GROUPS[1:]:
        if draw.random() < (0.05 if group == "experiment" else 0.12):
            choice = draw.choice(CHOICES[group])
            overrides += [f"{group}={choice}", *NEEDED.get(choice, [])]
    pools = POOLS if draw.random() < 0.6 else PLAIN
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        overrides.append(_random_override(draw, task, pools))
    if draw.random() < 0.3:
        draw.shuffle(overrides)
    return overrides


def _random_override(draw: random.Random, task: str, pools: tuple) -> str:
    value = draw.choice(draw.choice(pools))
    kind = draw.random()
    if kind < 0.4 and task in tasks.REGISTRY:
        key = "task." + draw.choice([*sorted(set(tasks.options(task)) - {"base"}), "name", "export"])
    elif kind < 0.8:
        key = draw.choice(KEYS)
    elif kind < 0.88:
        key = draw.choice(GROUPS)
    elif kind < 0.92:
        key = draw.choice(("penalty.bta", "lr", "beta", "learning_rate", "x.y.z", "task", "hydra.nosuch", "", "=", "penalty."))
    else:
        return draw.choice(("+", "++", "~", "")) + draw.choice(KEYS) + draw.choice(("", f"={value}", "==", "=[", "={"))
    if key in ALLOWED and draw.random() < 0.6:
        value = draw.choice(ALLOWED[key])
    if key == "task.export":  # which would write
        value = draw.choice(("null", "/nosuch/folder/x.json", "1", "[1]"))
    return f"{key}={value}"


def outcome(overrides: list[str]) -> str:
    """What becomes of these overrides: "built", or the line of a refusal.

    Raises `AssertionError` for a line that helps nobody.
    """
    try:
        build(compose(overrides))
    except SettingsError as error:
        line = str(error)
        assert "\n" not in line and line.isprintable(), f"no one line of printable text: {line!r}"
        assert len(line) < 300, f"a line of {len(line)} characters: {line[:320]!r}"
        assert line.startswith(visible(error.key)[:50]), f"does not begin with its key: {line!r}"
        assert error.key.partition(".")[0] in NAMED or error.key in "\n".join(overrides), f"names no key: {line!r}"
        return line
    return "built"


def valid_overrides(seed: int) -> list[str]:
    """Overrides of a short run, most of which go together; coefficients from one limit to the other."""
    draw = random.Random(seed)
    task = draw.choice([name for name in CHOICES["task"] if name not in ("plugin", "sequence/text", "preference/brackets")])
    overrides = [f"task={task}", *NEEDED.get(task, []), "steps=20", f"log_every={draw.choice((1, 5, 20, 100))}"]
    policy = draw.choice(("tabular", "tabular", "tabular", "ngram", "gru", "transformer", "gaussian"))
    overrides += [f"policy={policy}", f"policy.init={draw.choice(('null', 'uniform', 'random'))}", "++policy.width=8"]
    algorithm = draw.choice(("exact", "exact", "natural", "reinforce", "rloo", "grpo", "dr_grpo", "ppo"))
    overrides += [f"algorithm={algorithm}", f"algorithm.entropy_coef={draw.choice(('null', 'null', 0.1))}"]
    overrides += [] if algorithm in ("exact", "natural") else [f"batch_size={draw.choice((2, 8, 64))}"]
    divergence = draw.choice(sorted(divergences.REGISTRY))
    beta = draw.choice((0.1, 1.0, 10.0 ** draw.uniform(-12.0, 12.0), 10.0 ** draw.uniform(-3.0, 1.0)))
    overrides += [
        f"penalty.divergence={divergence}",
        f"penalty.beta={beta!r}",
        f"++penalty.alpha={draw.choice((-1, 0, 0.5, 1, 2))}",
    ]
    if divergence in ("kl_pi_ref", "kl_ref_pi") and algorithm not in ("exact", "natural") and draw.random() < 0.6:
        ways = options.combinations(divergence, 2)
        way = draw.choice(ways)
        overrides += [f"penalty.{key}={getattr(way, key)}" for key in ("estimator", "placement", "gradient", "sampler")]
    overrides += ["penalty.allow_biased=true"]
    if draw.random() < 0.3:
        overrides += [
            f"penalty.controller={draw.choice(('adaptive', 'lagrangian'))}",
            f"penalty.target_kl={draw.choice((1e-3, 0.5, 20))}",
        ]
        overrides += ["penalty.controller_rate=1.0"]
    overrides += [f"dtype={draw.choice(('null', 'float32', 'float64'))}", f"optimizer={draw.choice(('adam', 'adam', 'sgd'))}"]
    overrides += [f"decoding.temperature={draw.choice(('null', 'null', 0.5))}", f"seed={draw.randrange(2**32)}"]
    return overrides


def main(count: int, first: int) -> int:
    """Try `count` settings; returns how many had another outcome."""
    wrong = built = 0
    for seed in range(first, first + count):
        overrides, started = random_overrides(seed), time.perf_counter()
        try:
            built += outcome(overrides) == "built"
        except BaseException as error:
            wrong += 1
            print(f"{seed}: {overrides!r}\n    {type(error).__name__}: {str(error)[:500]}", flush=True)
        if time.perf_counter() - started > 5.0:
            print(f"{seed}: {overrides!r}\n    took {time.perf_counter() - started:.0f} s", flush=True)
    print(f"{count} settings: {built} built, {wrong} neither built nor refused in a line")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
