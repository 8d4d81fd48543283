"""Finished runs tracked by a process beside the sweep's: what it is given it tracks, and what becomes of it stops nothing."""

import io
import pickle
import signal

from rlkl.runs import tracking, tracking_process

ABOUT = tracking.WandbRun("project", None, ["a"], None, True, None, "run", "sweep", "job", {"seed": 0})
COLUMNS, SUMMARY = {"step": [0.0, 10.0], "regret": [0.5, 0.25]}, {"regret": 0.25}


def given(*names: str) -> io.BytesIO:
    """What a sweep writes of runs of these names."""
    return io.BytesIO(b"".join(pickle.dumps((ABOUT._replace(name=name), "folder", COLUMNS, SUMMARY)) for name in names))


def test_each_run_is_tracked_whole_and_in_turn(monkeypatch):
    seen = []

    class Recorder:
        def __init__(self, told, folder, warn):
            seen.append((told, folder))

        def log(self, columns):
            seen.append(columns)

        def finish(self, summary):
            seen.append(summary)

    monkeypatch.setattr(tracking_process, "Tracker", Recorder)
    tracking_process.serve(given("first", "second"), lambda message: None)
    one = lambda name: [(ABOUT._replace(name=name), "folder"), COLUMNS, SUMMARY]  # noqa: E731
    assert seen == one("first") + one("second")


def test_what_goes_wrong_is_said_once(monkeypatch):
    class Failing:
        def __init__(self, told, folder, warn):
            warn("no wandb here")

        def log(self, columns):
            pass

        def finish(self, summary):
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
        tracker.track(ABOUT, tmp_path, COLUMNS, SUMMARY)
    tracker.close()
    assert len(said) == 1
    assert said[0].startswith("wandb's process has ended (Broken pipe)")
