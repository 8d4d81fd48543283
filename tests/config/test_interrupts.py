"""Ctrl-C at any moment: one line and status 130, never a traceback, and what has finished is kept."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

RUN = ("task=bandit/random", "algorithm=rloo", "steps=2000", "tracking=none", "resume=false")
# Python's own start, before any of rlkl's lines, is left out.
COMMAND = (
    "from rlkl.config import interrupts as i; i.install(); print('ready', flush=True); from rlkl.__main__ import entry; entry()"
)


def start(arguments: tuple[str, ...], cwd: Path, cache: Path) -> subprocess.Popen:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    line, piped = [sys.executable, "-c", COMMAND, *arguments], subprocess.PIPE
    process = subprocess.Popen(line, cwd=cwd, env=environment, stdout=piped, stderr=piped, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def interrupted(process: subprocess.Popen, after: float, complete: str) -> int:
    """Interrupt a command after so many seconds; its status, once it is one of the two that may be."""
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=300)
    assert process.returncode in (0, 130), complained
    assert "Traceback" not in complained
    if process.returncode == 0:
        assert complete in said
    else:
        assert complained.splitlines()[-1] == "error: interrupted"
    return process.returncode


@pytest.mark.parametrize("after", [0.0, 0.1, 0.4, 0.9])
def test_an_interrupt_of_imports_and_composition_is_one_line(tmp_path, cache, after):
    interrupted(start(RUN, tmp_path, cache), after, "regret")


COMMANDS = {
    "run": (RUN, "regret"),
    "sweep": (("-m", *RUN, "seed=range(4)"), "4 jobs finished"),
    "basic": (("-m", *RUN, "seed=0,1", "hydra/launcher=basic"), "2 jobs finished"),
    "list": (("list",), "divergence"),
    "plot": (("plot", "run"), "wrote"),
    "summary": (("summary", "run"), "regret"),
    "audit": (("audit", "steps=3"), "wrote"),
    "grade": (("grade", "penalty=trl_grpo"), "wrote"),
    "compare": (("compare", "one.npz", "two.npz"), "KL"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_at_each_of_many_moments_is_one_line(tmp_path, cache, command, name):
    arguments, complete = COMMANDS[name]
    command(*RUN, "hydra.run.dir=run")
    for each, shift in (("one", 0.0), ("two", 0.1)):
        logits = np.random.default_rng(0).normal(size=(4, 5)) + shift * np.arange(5)
        np.savez(tmp_path / f"{each}.npz", log_probs=logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    started, whole = time.perf_counter(), start(arguments, tmp_path, cache)
    with contextlib.suppress(subprocess.TimeoutExpired):
        whole.communicate(timeout=12.0)
    seconds = time.perf_counter() - started
    whole.kill()
    whole.communicate()
    seen = [interrupted(start(arguments, tmp_path, cache), after, complete) for after in np.linspace(0.0, seconds, 20)]
    assert seen.count(130) >= 3  # the others came too late, where the machine was slower while it was timed


STUBBED = """
import signal, sys, types
cli = sys.modules["rlkl.cli"] = types.ModuleType("rlkl.cli")
import rlkl
from rlkl.config import interrupts
rlkl.cli = cli

def main(argv):
    {body}

cli.main = main
from rlkl.__main__ import entry
entry()
"""
CASES = {
    "at once": "signal.raise_signal(signal.SIGINT)",
    "swallowed": """interrupts.raise_first()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return 0""",
    "turned into another error": """interrupts.raise_first()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("INTERNAL: callback failed") from None""",
    "where errors are ignored": """interrupts.raise_first()
    class Gone:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)
    Gone()
    return 0""",
    "a second": """interrupts.raise_first()
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGINT)""",
    "as the process exits": """import atexit
    atexit.register(signal.raise_signal, signal.SIGINT)
    return 0""",
}


@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_is_one_line_whatever_others_make_of_it(case):
    code = [sys.executable, "-c", STUBBED.format(body=CASES[case])]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_a_command_that_ignores_interrupts_goes_on():
    """As a shell starts what a script puts in its background."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + STUBBED.format(body=CASES["at once"])
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
