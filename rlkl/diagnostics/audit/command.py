"""`rlkl audit`: the gradient audit for a task and a policy, as a table, a CSV and a figure."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure
from rich.table import Table

from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.diagnostics.audit import trust_regions
from rlkl.diagnostics.audit.measure import DIRECTIONS, SAME, AuditRow, audit
from rlkl.diagnostics.audit.trust_regions import TrustRegionRow
from rlkl.divergences import REGISTRY
from rlkl.policies import AnyPolicy, base
from rlkl.reports import plots
from rlkl.reports.console import console, number, warn
from rlkl.runs.folder import csv_text, files
from rlkl.runs.store import pretrained_references
from rlkl.runs.store.checked_files import Faults
from rlkl.settings import numerics
from rlkl.training import loop, spec, state

FOLDER = Path("outputs") / "audit"
SHORT = {"kl_pi_ref": "KL(pi‖pi_ref)", "kl_ref_pi": "KL(pi_ref‖pi)"}


class Case(NamedTuple):
    """What is audited: a run, a policy, the policy some updates before, and a key for samples."""

    run: spec.Run
    policy: AnyPolicy
    older: AnyPolicy
    key: PRNGKeyArray


def audit_rows(overrides: Sequence[str] = ()) -> list[AuditRow]:
    """The rows of the audit of penalties, for overrides as on the command line; see `make_case`."""
    with numerics.pinned():
        case = make_case(overrides)
        return list(audit(case.run, case.policy, case.key, older=case.older))


def trust_region_rows(overrides: Sequence[str] = ()) -> list[TrustRegionRow]:
    """The rows of the audit of trust regions and corrections, for overrides as on the command line; see `make_case`."""
    with numerics.pinned():
        case = make_case(overrides)
        return list(trust_regions.audit(case.run, case.policy, case.older, case.key))


def make_case(overrides: Sequence[str]) -> Case:
    """The run, and the policies that are audited. Needs x64.

    By default the policy starts random, since at the reference every gradient is zero, and is trained for `rollout.staleness`
    updates, at least one. The policy before these updates is the stale sampler.
    """
    init = [] if any(o.startswith("policy.init=") for o in overrides) else ["policy.init=random"]
    algorithm = [] if any(o.startswith("algorithm=") for o in overrides) else ["algorithm=rloo"]
    composed = compose([*algorithm, *overrides, *init])
    run = jax.tree.map(jnp.asarray, pretrained_references.attach(build(composed), Faults(warn)).run)
    state = jax.jit(loop.start)(run)
    updates = max(1, run.settings.rollout.staleness)
    later = _train(run, state, updates)
    older, policy = base.cast((state.policy, later.policy), jnp.float64)
    return Case(run, policy, older, jax.random.key(run.settings.seed))


@partial(jax.jit, static_argnums=2)
def _train(run: spec.Run, state: state.State, updates: int) -> state.State:
    cast_run = base.cast(run, jnp.dtype(run.settings.dtype))
    return loop.steps(cast_run, state, updates)


def run_audit(overrides: Sequence[str], folder: Path = FOLDER) -> None:
    """Print the tables of the audits; write audit.csv, its figure and trust_regions.csv."""
    with numerics.pinned():
        case = make_case(overrides)
        rows = list(audit(case.run, case.policy, case.key, older=case.older))
        off_policy = list(trust_regions.audit(case.run, case.policy, case.older, case.key))
    for name in DIRECTIONS:
        console.print(audit_table([row for row in rows if row.divergence == name], name))
    console.print(trust_regions_table(off_policy))
    files.write(folder / "audit.csv", csv_text.dumps(AuditRow._fields, rows))
    files.write(folder / "trust_regions.csv", csv_text.dumps(TrustRegionRow._fields, off_policy))
    figure = plots.save(audit_figure(rows), folder / "audit")
    for path in (folder / "audit.csv", folder / "trust_regions.csv", *figure):
        console.print(f"wrote {path}", markup=False)


def short_entrance(row: AuditRow) -> str:
    """A short description of how a penalty enters the gradient."""
    words = [row.estimator, f"in the {row.placement}", f"a {row.level}"]
    words += [row.gradient.replace("_", " ")] if row.gradient != "naive" else []
    words += ["immediate"] if row.credit == "immediate" else []
    words += ["+ future KL"] if row.future_kl else []
    words += ["on pi_ref's"] if row.sampler == "reference" else []
    words += [f"against {row.reference}"] if row.reference else []
    words += [f"sampler: {row.rollout}"] if row.rollout else []
    words += ["weights " + row.correction.replace(", ", " ")] if row.correction else []
    return ", ".join(words).replace(", +", " +")


def audit_table(rows: list[AuditRow], name: str) -> Table:
    """The table of the rows of one divergence."""
    title = f"penalties named {SHORT[name]}: expected gradient against the exact one"
    table = Table("estimate", "error", "cosine", "variance", "descends", title=title, title_justify="left")
    for row in rows:
        is_exact = row.descends == REGISTRY[row.divergence].formula
        numbers = (number(row.relative_error), number(row.cosine), number(row.variance))
        table.add_row(short_entrance(row), *numbers, row.descends, style="" if is_exact else "dim")
    return table


def trust_regions_table(rows: list[TrustRegionRow]) -> Table:
    """The table of the audit of trust regions and corrections."""
    title = "samples of the policy before the updates: expected gradient against that of the objective"
    table = Table("method", "error", "cosine", "variance", "touched", title=title, title_justify="left")
    for row in rows:
        numbers = (number(row.relative_error), number(row.cosine), number(row.variance), number(row.touched))
        table.add_row(row.method, *numbers, style="" if row.relative_error <= SAME else "dim")
    return table


KINDS = {"the exact gradient": plots.GREEN, "another divergence": plots.VERMILION, "a semi-gradient": plots.ORANGE,
         "no divergence": plots.BLACK, "zero": plots.GREY}  # fmt: skip


def row_kind(row: AuditRow) -> str:
    """The kind of the measured gradient, one of KINDS."""
    if row.relative_error <= SAME:
        return "the exact gradient"
    if row.descends.startswith("nothing"):
        return "zero"
    if row.descends.startswith("the semi-gradient"):
        return "a semi-gradient"
    return "no divergence" if row.descends.endswith(("no divergence", "alone")) else "another divergence"


def audit_figure(rows: list[AuditRow]) -> Figure:
    """The figure of the relative error of each penalty's expected gradient, by kind of gradient."""
    entrances = list(dict.fromkeys(map(short_entrance, rows)))
    height = {name: -i for i, name in enumerate(entrances)}
    with plots.styled():
        figure = Figure(figsize=(6.75, 0.9 + 0.145 * len(entrances)))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, name in zip(panels, DIRECTIONS, strict=True):
            for kind, colour in KINDS.items():
                panel_rows = [row for row in rows if row.divergence == name and row_kind(row) == kind]
                error = np.maximum([row.relative_error for row in panel_rows], 1e-17)
                axes.plot(error, [height[short_entrance(row)] for row in panel_rows], "o", color=colour, ms=3.5, label=kind)
            axes.set(xscale="log", xlim=(3e-18, 50.0), title=f"named {SHORT[name]}", xlabel="relative error")
            axes.grid(axis="y", lw=0.3, color=plots.GREY, alpha=0.4)
        panels[0].set_yticks([height[name] for name in entrances], entrances, fontsize=6)
        panels[0].set_ylim(-len(entrances) + 0.3, 0.7)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
