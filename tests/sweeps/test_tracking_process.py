"""Finished runs tracked by a process beside the sweep's: what it is given it tracks, and what becomes of it stops nothing."""

import io
import pickle
import signal

from rlkl.runs.tracking.about import About
from rlkl.sweeps import tracking_process

FINISHED = ("finish", True, False)
ABOUT = About("wandb", "project", None, ["a"], None, None, True, "id", False, "run", "sweep", "job", {"seed": 0})


def given(*names: str) -> io.BytesIO:
    """What a sweep writes of runs of these names."""
    return sent(*(message for name in names for message in (("start", ABOUT._replace(name=name), "folder"), FINISHED)))


def sent(*messages: tuple) -> io.BytesIO:
    return io.BytesIO(b"".join(map(pickle.dumps, messages)))


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


def test_a_run_is_tracked_while_it_trains_and_says_where(monkeypatch):
    """A single run: its rows are sent as they come, and where its log is, is printed as the process ends."""
    seen = []

    class Recorder:
        def __init__(self, told, folder, warn, draw):
            seen.append(folder)

        def log(self, columns):
            seen.append(columns)

        def finish(self, succeeded):
            seen.append(succeeded)
            return "to upload: ..."

    monkeypatch.setattr(tracking_process, "Tracker", Recorder)
    rows = {"step": [1, 2]}
    messages = [("start", ABOUT, "folder"), ("log", rows), ("log", rows)]
    assert tracking_process.serve(sent(*messages, ("finish", True, True)), lambda message: None) == ["to upload: ..."]
    assert seen == ["folder", rows, rows, True]
    seen.clear()
    assert tracking_process.serve(sent(*messages), lambda message: None) == []  # the command was killed
    assert seen == ["folder", rows, rows, False]


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
    start = pickle.dumps(("start", ABOUT, "folder"))
    tracking_process.serve(io.BytesIO(start[:-5]), lambda message: None)


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
