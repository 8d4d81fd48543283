"""Make the files that a trained run leaves in its folder."""

import json

import numpy as np

from rlkl.config.build import Built
from rlkl.evaluation import metrics
from rlkl.runs.folder import csv_text, diversity_table, prompts, samples
from rlkl.runs.folder.checkpoint import checkpoint
from rlkl.runs.folder.summary import history, summary
from rlkl.training.blocks import Trained

MOST_OUTCOMES = 4096


def outcomes_csv(built: Built, trained: Trained) -> str:
    """Return outcomes.csv: the probabilities of the end states, in state order.

    On a task with several prompts they are the probabilities of prompt and end state. If there are more than MOST_OUTCOMES,
    only the most likely are written, and a note says so. Where the policy's probabilities are sampled frequencies, their
    standard errors are written too.
    """
    ends = diversity_table.merged_outcomes(built, trained)
    if built.card.prompts:
        ends["prompt"] = np.array(built.card.prompts, object)[ends["prompt"]]
    if diversity_table.is_sampled(built, trained):
        ends["policy_stderr"] = np.sqrt(ends["policy"] * (1.0 - ends["policy"]) / metrics.LAST_SAMPLES)
    count = len(ends["outcome"])
    written = np.arange(count)
    if written.size > MOST_OUTCOMES:
        largest = np.nanmax(np.stack([ends["reference"], ends["policy"], ends["optimum"]]), axis=0)
        written = np.sort(np.argsort(-largest, kind="stable")[:MOST_OUTCOMES])
    left_out = count - written.size
    note = f"the {left_out} least likely of {count} outcomes are left out" if left_out else ""
    return csv_text.dumps(list(ends), ([column[i] for column in ends.values()] for i in written), note)


def positions_csv(trained: Trained) -> str:
    """Return positions.csv: the probability that each position is reached, and the next token's entropy and KL there."""
    columns: dict[str, np.ndarray] = {}
    for name in diversity_table.columns(trained):
        if name in trained.final.details:
            detail = trained.final.details[name]
            for key, values in (("alive", detail.alive), ("entropy", detail.entropy_at), ("kl_pi_ref", detail.kl_at)):
                columns[f"{name}.{key}"] = metrics.clip_rounding(key, values)
    rows = zip(*columns.values(), strict=True)
    return csv_text.dumps(["position", *columns], ([t, *row] for t, row in enumerate(rows)))


def names(built: Built) -> tuple[str, ...]:
    """Return the names of a run's files in the order of writing: the summary is last, so where it exists, all of them do."""
    texts = ("samples.txt", "positions.csv") if built.card.tokens else ()
    of_prompts = ("prompts.csv", "pass_at_k.csv") if built.card.prompts else ()
    return ("history.csv", "outcomes.csv", "diversity.csv", *of_prompts, *texts, "checkpoint.npz", "summary.json")


def files(built: Built, trained: Trained, seconds: float) -> dict[str, bytes]:
    """Return the content of a trained run's files, by name, in the order of `names`. seconds: how long the run took."""
    columns = {name: np.asarray(column).tolist() for name, column in history(trained.rows).items()}
    sequences = samples.sequences(built, trained) if built.card.tokens else {}
    table = diversity_table.diversity_metrics(built, trained, sequences)
    header, *rows = diversity_table.csv_lines(table)
    contents: dict[str, str | bytes] = {
        "history.csv": csv_text.dumps(list(columns), zip(*columns.values(), strict=True)),
        "outcomes.csv": outcomes_csv(built, trained),
        "diversity.csv": csv_text.dumps(header, rows),
    }
    if built.card.prompts:
        contents |= {"prompts.csv": prompts.prompts_csv(built, trained), "pass_at_k.csv": prompts.pass_at_k_csv(built, trained)}
    if sequences:
        contents |= {"samples.txt": samples.samples_txt(built, sequences), "positions.csv": positions_csv(trained)}
    contents["checkpoint.npz"] = checkpoint(built, trained)
    contents["summary.json"] = json.dumps(summary(built, trained, seconds, table), indent=2, allow_nan=False) + "\n"
    encoded = {name: content.encode() if isinstance(content, str) else content for name, content in contents.items()}
    return {name: encoded[name] for name in names(built)}
