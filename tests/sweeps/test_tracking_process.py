"""Finished runs tracked by a process beside the sweep's: what it is given it tracks, and what becomes of it stops nothing."""

import io
import pickle
import signal

from rlkl.runs.tracking.about import About
from rlkl.sweeps import tracking_process

ABOUT = About("wandb", "project", None, ["a"], None, None, True, "id", False, "run", "sweep", "job", {"seed": 0})


def given(*names: str) -> io.BytesIO:
    """What a sweep writes of runs of these names."""
    return io.BytesIO(b"".join(pickle.dumps((ABOUT._replace(name=name), "folder")) for name in names))


def test_each_run_is_tracked_whole_and_in_turn(monkeypatch):
    seen = []

    class Recorder:
        def __init__(self, told, folder, warn, draw):
            seen.append((told, folder))

        def finish(self, succeeded):
            seen.append(succeeded)

    monkeypatch.setattr(tracking_process, "Tracker", Recorder)
    tracking_process.serve(given("first", "second"), lambda message: None)
    assert seen == [(ABOUT._replace(name="first"), "folder"), True, (ABOUT._replace(name="second"), "folder"), True]


def test_what_goes_wrong_is_said_once(monkeypatch):
    class Failing:
        def __init__(self, told, folder, warn, draw):
            warn("no wandb here")

        def finish(self, succeeded):
            pass

    monkeypatch.setattr(tracking_process, "Tracker", Failing)
    said: list[str] = []
    tracking_process.serve(given("first", "second", "third"), said.append)
    assert said == ["no wandb here"]


def test_what_was_cut_off_is_left_out(monkeypatch):
    """A sweep that is killed while it writes."""
    monkeypatch.setattr(tracking_process, "Tracker", None)
    tracking_process.serve(io.BytesIO(given("first").getvalue()[:-5]), lambda message: None)


def test_a_process_that_is_killed_costs_one_warning(tmp_path):
    said: list[str] = []
    tracker = tracking_process.BackgroundTracker(said.append)
    tracker.process.send_signal(signal.SIGKILL)
    tracker.process.wait()
    for _ in range(3):
        tracker.track(ABOUT, tmp_path)
    tracker.close()
    assert len(said) == 1
    assert said[0].startswith("the tracker's process has ended (Broken pipe)")
