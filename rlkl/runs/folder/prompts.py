"""Make the files of a task with several prompts: the grade of each prompt, and pass@k over k."""

import numpy as np

from rlkl.config.build import Built
from rlkl.evaluation import diversity
from rlkl.evaluation.metrics import LAST_SAMPLES, clip_rounding
from rlkl.evaluation.prompt_grades import PromptGrades
from rlkl.policies import Policy
from rlkl.runs.folder import csv_text
from rlkl.training.blocks import Trained

K = tuple(2**i for i in range(11))  # of pass@k: 1 to 1,024
COLUMNS = ("reference", "policy", "optimum")


def prompt_columns(built: Built, trained: Trained) -> dict[str, np.ndarray]:
    """Return the columns of prompts.csv by name; in nats per sequence, with `<name>_stderr` for what is estimated."""
    grades = _grades(trained)
    values = grades.values
    columns = {
        "prompt": np.array(built.card.prompts, object),
        "weight": built.run.task.automaton.prompt_weights,
        "reward": values.reward,
        "objective": grades.objective,
        "regret": grades.optimal_objective - grades.objective,
        "divergence_value": values.divergence,
        "kl_pi_ref": values.kl_pi_ref,
        "kl_ref_pi": values.kl_ref_pi,
        "entropy": values.entropy,
        "length": values.length,
        "success_rate": grades.success["policy"],
    }
    columns |= {f"{name}_success_rate": rate for name, rate in grades.success.items() if name != "policy"}
    columns |= {f"{name}_stderr": error for name, error in grades.stderr.items()}
    return {name: column if name == "prompt" else clip_rounding(name, column) for name, column in columns.items()}


def prompts_csv(built: Built, trained: Trained) -> str:
    """Return prompts.csv: a row for each prompt."""
    columns = prompt_columns(built, trained)
    return csv_text.dumps(list(columns), zip(*columns.values(), strict=True))


def pass_at_k_csv(built: Built, trained: Trained) -> str:
    """Return pass_at_k.csv: for each k the probability that one of k answers is a success, averaged over prompts."""
    names = [name for name in COLUMNS if name in _grades(trained).success]
    curves = [[pass_at_k(built, trained, name, k) for name in names] for k in K]
    return csv_text.dumps(["k", *names], ([k, *row] for k, row in zip(K, curves, strict=True)))


def pass_at_k(built: Built, trained: Trained, name: str, k: int) -> float:
    """Return pass@k of the named policy, averaged over prompts by their weights.

    It is exact where success rates are; where they are frequencies among samples, it is Chen et al.'s unbiased estimate (2021,
    arXiv 2107.03374), NaN where a prompt has fewer than k samples.
    """
    grades, weights = _grades(trained), built.run.task.automaton.prompt_weights
    rates = np.asarray(grades.success[name])
    if not grades.stderr or (name != "policy" and isinstance(built.run.reference, Policy)):
        with np.errstate(divide="ignore"):  # a rate of 1 gives pass@k = 1
            return float(weights @ -np.expm1(k * np.log1p(-np.minimum(rates, 1.0))))
    draws = np.rint(weights * LAST_SAMPLES).astype(int)
    of_prompts = [diversity.pass_at_k_estimate(n, round(n * p), k).value for n, p in zip(draws, rates, strict=True)]
    return float(weights @ of_prompts)


def _grades(trained: Trained) -> PromptGrades:
    grades = trained.final.prompts
    assert grades is not None
    return grades
