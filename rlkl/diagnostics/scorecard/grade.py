"""One penalty graded: its measurements on the whole suite, and the six scores that follow from them; kept in the store."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlkl import algorithms, settings
from rlkl.config import machine
from rlkl.diagnostics.audit.gradients import ARMS, gradients, walkway
from rlkl.diagnostics.scorecard import robustness, scores, suite
from rlkl.diagnostics.scorecard.suite import Reached, Setup, Size
from rlkl.divergences import REGISTRY
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import ExpectedGradient
from rlkl.runs.store import checked_files
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.fingerprint import fingerprint

SCORES = ("gradient", "regret", "reward_at_kl", "coverage", "robustness", "seeds")
PARTS = ("gradients and log-ratios", "bandits", *suite.SEQUENCES)
LEFT = 0.01  # of the gain: what an optimum may leave, or be beaten by, and still count as one
NO_PENALTY = "there is no penalty"


class Entrant(NamedTuple):
    """A penalty with all settings resolved: for bandits, and for sequences."""

    bandit: settings.Settings
    sequence: settings.Settings


class ScoreDetail(NamedTuple):
    """One measured number. task: or the probe; case: the check, or the number of the policy that gradients were compared at."""

    score: str
    task: str
    case: str
    beta: float | None
    seed: int | None
    measure: str
    value: float


class Grade(NamedTuple):
    """The scores (NaN where undefined, with a reason by the score's name) and every number behind them."""

    scores: dict[str, float]
    reasons: dict[str, str]
    details: list[ScoreDetail]


def grade_entrant(
    entrant: Entrant, size: Size, store: Path, on_part: Callable[[str], None], faults: Faults
) -> tuple[Grade, bool]:
    """The grade of a penalty, and whether it was in the store. Where not, `on_part` hears of each of PARTS; `faults` hears what
    is wrong with the store. Needs x64."""
    path = store / "grades" / f"{grade_fingerprint(entrant, size)}.json"
    kept = checked_files.read(path, _read, faults)
    if kept is not None:
        return kept, True
    found = _measure(entrant, size, on_part)
    named = {name: _none(value) for name, value in found.scores.items()}
    values = [named, found.reasons, [[*map(_none, row)] for row in found.details]]
    checked_files.write(path, json.dumps(values, allow_nan=False).encode(), faults)
    return found, False


def grade_fingerprint(entrant: Entrant, size: Size) -> str:
    """A hash of all that a grade depends on: a plugin's functions by their module's name, which tells its content."""
    chosen = entrant.bandit
    divergence, algorithm = REGISTRY.get(chosen.penalty.divergence), algorithms.REGISTRY.get(chosen.algorithm.name)
    code = [divergence and divergence.both.__module__, algorithm and algorithm.advantage.__module__]
    at_one = [dataclasses.replace(each, penalty=dataclasses.replace(each.penalty, beta=1.0)) for each in entrant]
    return fingerprint("grade", *map(dataclasses.asdict, at_one), size, code, machine.numeric_environment())


def _measure(entrant: Entrant, size: Size, on_part: Callable[[str], None]) -> Grade:
    on_part(PARTS[0])
    named = options.divergence(entrant.bandit.penalty) is not None
    probed = {"bandit": (entrant.bandit, ARMS), "automaton": (entrant.sequence, walkway())}
    compared = {name: gradients(*at, size.policies) for name, at in probed.items()} if named else {}
    checks = robustness.robust(entrant.bandit, 1) + robustness.robust(entrant.sequence, 2) if named else []
    on_part(PARTS[1])
    setups = suite.bandits()
    reached = suite.train_suite(entrant.bandit, setups, size)
    for name in suite.SEQUENCES:
        on_part(name)
        setups = (*setups, suite.sequence(name))
        reached += suite.train_suite(entrant.sequence, setups[-1:], size)
    details = [
        *_of_probes(compared, checks),
        *(row for pair in zip(setups, reached, strict=True) for row in _of_runs(*pair, size)),
    ]
    return Grade(*_scored(compared, checks, setups, reached), details)


def _scored(compared, checks, setups: tuple[Setup, ...], reached: list[Reached]) -> tuple[dict[str, float], dict[str, str]]:
    """The scores, each averaged over its tasks, and the reasons of those that are undefined on one of them."""
    reasons: dict[str, str] = {}
    learning = [(setup, found) for setup, found in zip(setups, reached, strict=True) if setup.lost is None]
    parts: dict[str, list[float]] = {name: [] for name in ("regret", "reward_at_kl", "seeds")}
    for setup, found in learning:
        best = found.best[:, 0]
        parts["reward_at_kl"].append(scores.reward_at_kl(found.kl, found.reward, setup.ends, setup.worth))
        doubt = uncertain(found, setup.first)
        for name, of in (("regret", scores.regret), ("seeds", scores.seeds)):
            parts[name].append(np.nan if doubt else of(found.objective, setup.first, best))
            if doubt:
                reasons[name] = f"{setup.name}: {doubt}"
    if not compared:
        reasons |= {"gradient": NO_PENALTY, "robustness": NO_PENALTY}
    kept = [found.kept for setup, found in learning if setup.several]
    returned = [
        found.ends[..., setup.lost] / setup.reference[setup.lost]
        for setup, found in zip(setups, reached, strict=True)
        if setup.lost is not None
    ]
    found_scores = {
        "gradient": scores.gradient(np.concatenate([each.error for each in compared.values()])) if compared else np.nan,
        **{name: float(np.mean(values)) for name, values in parts.items()},
        "coverage": scores.coverage(kept, returned),
        "robustness": scores.robustness(np.array([check.passed for check in checks])) if checks else np.nan,
    }
    return {name: found_scores[name] for name in SCORES}, reasons


def uncertain(found: Reached, first: float) -> str | None:
    """Why a task's optimum cannot be trusted to judge by, or None: all coefficients together, relative to their gain."""
    gain = float(np.sum(found.best[:, 0] - first))
    if np.isnan(gain):
        return "no exact optimum is known"
    if not gain > 0.0:
        return "its optimum gains nothing over the reference"
    if not float(np.sum(found.gap[:, 0])) <= LEFT * gain:
        return "its optimum could not be certified (is f strictly convex, and its slope f'?)"
    if float(np.sum(np.max(found.objective, axis=1))) > float(np.sum(found.best[:, 0])) + LEFT * gain:
        return "training beat its optimum, which therefore is none"
    return None


def _of_probes(compared, checks) -> Iterator[ScoreDetail]:
    for name, each in compared.items():
        for i in range(each.error.size):
            yield ScoreDetail("gradient", name, str(i), None, None, "relative_error", float(each.error[i]))
            yield ScoreDetail("gradient", name, str(i), None, None, "cosine", float(each.cosine[i]))
    for check in checks:
        where = ("bandit" if check.horizon == 1 else "sequence") + f", {check.dtype}"
        yield ScoreDetail("robustness", where, check.name, None, None, "passed", float(check.passed))


def _of_runs(setup: Setup, found: Reached, size: Size) -> Iterator[ScoreDetail]:
    """Of each run: what its scores are made of."""
    learning = (
        ("objective", found.objective),
        ("optimal_objective", found.best),
        ("reward", found.reward),
        ("kl_pi_ref", found.kl),
    )
    measured = [("regret, reward_at_kl, seeds", name, values) for name, values in learning] if setup.lost is None else []
    measured += [("coverage", "kept", found.kept)] if setup.several else []
    if setup.lost is not None:
        measured += [("coverage", "returned", found.ends[..., setup.lost] / setup.reference[setup.lost])]
    measured += [("", "steps", found.steps)]
    for score, name, values in measured:
        for (b, beta), s in ((pair, s) for pair in enumerate(size.betas) for s in range(size.seeds)):
            yield ScoreDetail(score, setup.name, "", beta, s, name, float(values[b, s]))


def _none(value: Any) -> Any:
    """JSON has no NaN and no infinity: null, and text."""
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


def _read(content: bytes) -> Grade:
    named, reasons, rows = json.loads(content)
    details = [ScoreDetail(*row)._replace(value=_number(row[-1])) for row in rows]
    return Grade({name: _number(named[name]) for name in SCORES}, dict(reasons), details)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


HEADINGS = dict(zip(SCORES, ("gradient", "regret", "reward\nat KL", "coverage", "extreme\nratios", "seeds"), strict=True))


class Named(NamedTuple):
    """A penalty to be graded, by the overrides that name it. candidate: the caller's own, not a shipped one."""

    name: str
    overrides: tuple[str, ...]
    candidate: bool


class GradedPenalty(NamedTuple):
    """A graded penalty. descends: what it descends on bandits, and on sequences; caveats: what else keeps a step from it;
    reused: whether its grade was in the store."""

    named: Named
    grade: Grade
    descends: tuple[ExpectedGradient, ExpectedGradient]
    caveats: tuple[str, ...]
    reused: bool

    @property
    def biased(self) -> bool:
        """Whether it anywhere descends something else than its divergence."""
        return any(each.kind != "exact" for each in self.descends)
