"""The grade of one penalty: measurements on the suite, and six scores computed from them. Grades are kept in the store."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlkl import algorithms, settings
from rlkl.config import machine
from rlkl.diagnostics.audit.gradients import BANDIT, gradients, random_automaton
from rlkl.diagnostics.scorecard import extreme_ratios, scores, suite
from rlkl.diagnostics.scorecard.suite import Reached, Setup, Size
from rlkl.divergences import REGISTRY
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import ExpectedGradient
from rlkl.runs.store import checked_files
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.fingerprint import fingerprint

SCORES = ("gradient", "objective", "reward_at_kl", "coverage", "extreme_ratios", "seeds")
PARTS = ("gradients and log-ratios", "bandits", *suite.SEQUENCES)
GAP = 0.01  # largest optimality gap accepted, as a share of the attainable gain
NO_PENALTY = "there is no penalty"


class Entrant(NamedTuple):
    """The resolved settings of a penalty, for bandits and for sequences."""

    bandit: settings.Settings
    sequence: settings.Settings


class ScoreDetail(NamedTuple):
    """One measured number. task: the task or probe; case: the name of the check, or the index of the compared policy."""

    score: str
    task: str
    case: str
    beta: float | None
    seed: int | None
    measure: str
    value: float


class Grade(NamedTuple):
    """The scores, the reasons of undefined scores (which are NaN), and every number behind them."""

    scores: dict[str, float]
    reasons: dict[str, str]
    details: list[ScoreDetail]


def grade_entrant(
    entrant: Entrant, size: Size, store: Path, on_part: Callable[[str], None], faults: Faults
) -> tuple[Grade, bool]:
    """The grade of a penalty, and whether it was in the store.

    on_part: called with the name of each part in PARTS as it is measured. faults: collects errors of the store. Needs x64.
    """
    path = store / "grades" / f"{grade_fingerprint(entrant, size)}.json"
    stored = checked_files.read(path, _read, faults)
    if stored is not None:
        return stored, True
    measured = measure_grade(entrant, size, on_part)
    numbers = {name: none_for_nan(value) for name, value in measured.scores.items()}
    values = [numbers, measured.reasons, [[*map(none_for_nan, row)] for row in measured.details]]
    checked_files.write(path, json.dumps(values, allow_nan=False).encode(), faults)
    return measured, False


def grade_fingerprint(entrant: Entrant, size: Size) -> str:
    """A hash of everything that a grade depends on. Plugins enter by module name, which has a hash of the file."""
    bandit = entrant.bandit
    divergence, algorithm = REGISTRY.get(bandit.penalty.divergence), algorithms.REGISTRY.get(bandit.algorithm.name)
    code = [divergence and divergence.both.__module__, algorithm and algorithm.advantage.__module__]
    at_one = [dataclasses.replace(each, penalty=dataclasses.replace(each.penalty, beta=1.0)) for each in entrant]
    return fingerprint("grade", *map(dataclasses.asdict, at_one), size, code, machine.numeric_environment())


def measure_grade(entrant: Entrant, size: Size, on_part: Callable[[str], None]) -> Grade:
    """The grade of a penalty, measured anew; `on_part` hears of each of PARTS and of each sequence task."""
    on_part(PARTS[0])
    has_penalty = options.divergence(entrant.bandit.penalty) is not None
    probes = {"bandit": (entrant.bandit, BANDIT), "automaton": (entrant.sequence, random_automaton())}
    compared = {name: gradients(*probe, size.policies) for name, probe in probes.items()} if has_penalty else {}
    checks = (
        extreme_ratios.run_checks(entrant.bandit, 1) + extreme_ratios.run_checks(entrant.sequence, 2) if has_penalty else []
    )
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
    """The scores, averaged over tasks, and the reasons of scores that are undefined on some task."""
    reasons: dict[str, str] = {}
    trained = [(setup, result) for setup, result in zip(setups, reached, strict=True) if setup.lost is None]
    parts: dict[str, list[float]] = {name: [] for name in ("objective", "reward_at_kl", "seeds")}
    for setup, result in trained:
        best = result.best[:, 0]
        parts["reward_at_kl"].append(scores.reward_at_kl(result.kl, result.reward, setup.ends, setup.rewards))
        reason = uncertain(result, setup.reference_reward)
        for name, score in (("objective", scores.objective), ("seeds", scores.seeds)):
            parts[name].append(np.nan if reason else score(result.objective, setup.reference_reward, best))
            if reason:
                reasons[name] = f"{setup.name}: {reason}"
    if not compared:
        reasons |= {"gradient": NO_PENALTY, "extreme_ratios": NO_PENALTY}
    proportions = [result.kept for setup, result in trained if setup.several]
    returned = [
        result.ends[..., setup.lost] / setup.reference[setup.lost]
        for setup, result in zip(setups, reached, strict=True)
        if setup.lost is not None
    ]
    values_by_score = {
        "gradient": scores.gradient(np.concatenate([each.error for each in compared.values()])) if compared else np.nan,
        **{name: float(np.mean(values)) for name, values in parts.items()},
        "coverage": scores.coverage(proportions, returned),
        "extreme_ratios": scores.extreme_ratios(np.array([check.passed for check in checks])) if checks else np.nan,
    }
    return {name: values_by_score[name] for name in SCORES}, reasons


def uncertain(reached: Reached, reference_reward: float) -> str | None:
    """Why the optimum of a task cannot be used for scores, or None. Gaps and gains are summed over all coefficients."""
    gain = float(np.sum(reached.best[:, 0] - reference_reward))
    if np.isnan(gain):
        return "no exact optimum is known"
    if not gain > 0.0:
        return "its optimum gains nothing over the reference"
    if not float(np.sum(reached.gap[:, 0])) <= GAP * gain:
        return "its optimum could not be certified (is f strictly convex, and its slope f'?)"
    if float(np.sum(np.max(reached.objective, axis=1))) > float(np.sum(reached.best[:, 0])) + GAP * gain:
        return "training beat its optimum, which therefore is none"
    return None


def _of_probes(compared, checks) -> Iterator[ScoreDetail]:
    for name, each in compared.items():
        for i in range(each.error.size):
            yield ScoreDetail("gradient", name, str(i), None, None, "relative_error", float(each.error[i]))
            yield ScoreDetail("gradient", name, str(i), None, None, "cosine", float(each.cosine[i]))
    for check in checks:
        where = ("bandit" if check.horizon == 1 else "sequence") + f", {check.dtype}"
        yield ScoreDetail("extreme_ratios", where, check.name, None, None, "passed", float(check.passed))


def _of_runs(setup: Setup, reached: Reached, size: Size) -> Iterator[ScoreDetail]:
    """The numbers of each run that enter the scores."""
    trained = (
        ("objective", reached.objective),
        ("optimal_objective", reached.best),
        ("reward", reached.reward),
        ("kl_pi_ref", reached.kl),
    )
    measured = [("objective, reward_at_kl, seeds", name, values) for name, values in trained] if setup.lost is None else []
    measured += [("coverage", "kept", reached.kept)] if setup.several else []
    if setup.lost is not None:
        measured += [("coverage", "returned", reached.ends[..., setup.lost] / setup.reference[setup.lost])]
    measured += [("", "steps", reached.steps)]
    for score, name, values in measured:
        for (b, beta), s in ((pair, s) for pair in enumerate(size.betas) for s in range(size.seeds)):
            yield ScoreDetail(score, setup.name, "", beta, s, name, float(values[b, s]))


def none_for_nan(value: Any) -> Any:
    """The value as JSON can hold it: NaN as null, infinities as text."""
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


def _read(content: bytes) -> Grade:
    named, reasons, rows = json.loads(content)
    details = [ScoreDetail(*row)._replace(value=_number(row[-1])) for row in rows]
    return Grade({name: _number(named[name]) for name in SCORES}, dict(reasons), details)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


HEADINGS = dict(zip(SCORES, ("gradient", "objective", "reward\nat KL", "coverage", "extreme\nratios", "seeds"), strict=True))


class NamedPenalty(NamedTuple):
    """A penalty to be graded, given by overrides. candidate: whether the user asked for it; else it is a shipped one."""

    name: str
    overrides: tuple[str, ...]
    candidate: bool


class GradedPenalty(NamedTuple):
    """A penalty with its grade.

    descends: what its expected gradient descends, on bandits and on sequences. caveats: other reasons why a step may differ
    from it. reused: whether its grade was in the store.
    """

    penalty: NamedPenalty
    grade: Grade
    descends: tuple[ExpectedGradient, ExpectedGradient]
    caveats: tuple[str, ...]
    reused: bool

    @property
    def biased(self) -> bool:
        """Whether its expected gradient is not that of its divergence, on bandits or on sequences."""
        return any(each.kind != "exact" for each in self.descends)
