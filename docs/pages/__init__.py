"""The pages as Jinja templates: their tables and numbers come from the source and from figure.csv, never retyped."""

from pathlib import Path

import jinja2

from pages import api, audits, conformance, experiments, faults, options, registries, results, rooms

FUNCTIONS = {
    "api": api.api,
    "api_top": api.top_level,
    "options": options.options,
    "presets_of_groups": options.presets_of_groups,
    "defaults": options.defaults,
    "aggregations": options.aggregations,
    "default_estimators": options.default_estimators,
    "audit": audits.audit,
    "off_policy_audit": audits.off_policy_audit,
    "estimator_values": audits.estimator_values,
    "ends": audits.ends,
    "sampler_audit": audits.sampler_audit,
    "sampler_numbers": audits.sampler_numbers,
    "claim": experiments.claim,
    "cell": experiments.cell,
    "table": experiments.table,
    "claims": experiments.claims,
    "timings": experiments.timings,
    "figure": experiments.figure,
    "experiments_table": experiments.experiments_table,
    "paper_index": experiments.paper_index,
    "folklore": experiments.folklore,
    "number": results.number,
    "crossings": results.crossings,
    "equal_kl_crossings": results.equal_kl_crossings,
    "lesser_share": results.lesser_share,
    "k1_deviation": results.k1_deviation,
    "most_lost": results.most_lost,
    "highest": results.highest,
    "rows": results.rows,
    "pivot": results.pivot,
    "rare_arm": results.rare_arm,
    "text_table": results.text_table,
    "share": results.share,
    "shares_table": results.shares_table,
    "sayings": results.sayings,
    "expected": results.expected,
    "divergences": registries.divergences_table,
    "tasks": registries.tasks_table,
    "task_names": registries.task_names,
    "task": registries.task,
    "policies": registries.policies_table,
    "algorithms": registries.algorithms_table,
    "check_arguments": registries.check_arguments,
    "conformance": conformance.conformance,
    "conformance_cell": conformance.conformance_cell,
    "conformance_details": conformance.conformance_details,
    "conformance_libraries": conformance.conformance_libraries,
    "faults_table": faults.faults_table,
    "fault": faults.fault,
    "examples_table": faults.examples_table,
    "example_warnings": faults.example_warnings,
    "example_kl": faults.example_kl,
    "estimators": registries.estimators_table,
    "surrogates": registries.surrogates_table,
    "library_names": registries.library_names,
    "descends": registries.descends_table,
    "presets": registries.presets_table,
    "preset": registries.preset,
    "bibtex": registries.bibtex,
    "preset_names": registries.preset_names,
    "rooms": rooms.rooms,
}


def render(app, docname: str, source: list[str]) -> None:
    """Render a page's source in place; tutorials are notebooks and stay as they are."""
    if docname.startswith("tutorials/"):
        return
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    source[0] = environment.from_string(source[0]).render(FUNCTIONS)


def write_notebooks(sources: Path, target: Path) -> None:
    """Write the tutorials as .ipynb files, without outputs."""
    import nbformat
    from myst_nb.core.read import read_myst_markdown_notebook

    target.mkdir(exist_ok=True)
    for source in sorted(sources.glob("*.md")):
        if source.stem != "index":
            notebook = read_myst_markdown_notebook(source.read_text(encoding="utf-8"), add_source_map=False)
            nbformat.write(notebook, target / f"{source.stem}.ipynb")
