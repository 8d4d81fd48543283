"""The files that a run leaves in its folder, by name."""

import json

import numpy as np

from rlkl.config.build import Built
from rlkl.evaluation import metrics
from rlkl.runs.folder import csv_text, diversity_table, samples
from rlkl.runs.folder.checkpoint import checkpoint
from rlkl.runs.folder.summary import history, summary
from rlkl.training.blocks import Trained

MOST_OUTCOMES = 4096


def outcomes_csv(built: Built, trained: Trained) -> str:
    """outcomes.csv: the end states in state order, at most MOST_OUTCOMES (then the most likely, and a note that says so);
    where the policy's are frequencies, their standard error."""
    ends = diversity_table.merged_outcomes(built, trained)
    if diversity_table.is_sampled(built, trained):
        ends["policy_stderr"] = np.sqrt(ends["policy"] * (1.0 - ends["policy"]) / metrics.LAST_SAMPLES)
    count = len(ends["outcome"])
    kept = np.arange(count)
    if kept.size > MOST_OUTCOMES:
        likely = np.nanmax(np.stack([ends["reference"], ends["policy"], ends["optimum"]]), axis=0)
        kept = np.sort(np.argsort(-likely, kind="stable")[:MOST_OUTCOMES])
    dropped = count - kept.size
    note = f"the {dropped} least likely of {count} outcomes are left out" if dropped else ""
    return csv_text.dumps(list(ends), ([column[i] for column in ends.values()] for i in kept), note)


def positions_csv(trained: Trained) -> str:
    """positions.csv: at each position, who is still writing, and the next token's mean entropy and KL(pi‖pi_ref) there."""
    details = trained.final.details
    names = [name for name in diversity_table.columns(trained) if name in details]
    columns: dict[str, np.ndarray] = {}
    for name in names:
        seen = details[name]
        for key, at in (("alive", seen.alive), ("entropy", seen.entropy_at), ("kl_pi_ref", seen.kl_at)):
            columns[f"{name}.{key}"] = metrics.unrounded(key, at)
    rows = zip(*columns.values(), strict=True)
    return csv_text.dumps(["position", *columns], ([t, *row] for t, row in enumerate(rows)))


def names(built: Built) -> tuple[str, ...]:
    """The names of the files that a run leaves in its folder; the summary comes last, and says that the others are there."""
    texts = ("samples.txt", "positions.csv") if built.card.tokens else ()
    return ("history.csv", "outcomes.csv", "diversity.csv", *texts, "checkpoint.npz", "summary.json")


def files(built: Built, trained: Trained, seconds: float) -> dict[str, bytes]:
    """What a run leaves in its folder, by its `names`."""
    columns = {name: np.asarray(column).tolist() for name, column in history(trained.rows).items()}
    written = samples.sequences(built, trained) if built.card.tokens else {}
    table = diversity_table.diversity_metrics(built, trained, written)
    header, *rows = diversity_table.csv_lines(table)
    kept: dict[str, str | bytes] = {
        "history.csv": csv_text.dumps(list(columns), zip(*columns.values(), strict=True)),
        "outcomes.csv": outcomes_csv(built, trained),
        "diversity.csv": csv_text.dumps(header, rows),
    }
    if written:
        kept |= {"samples.txt": samples.side_by_side(built, written), "positions.csv": positions_csv(trained)}
    kept["checkpoint.npz"] = checkpoint(built, trained)
    graded = summary(built, trained, seconds, table)
    kept["summary.json"] = json.dumps(graded, indent=2, allow_nan=False) + "\n"
    whole = {name: content.encode() if isinstance(content, str) else content for name, content in kept.items()}
    return {name: whole[name] for name in names(built)}
