"""`python -m experiments.conformance [NAME ...]`: run every library's losses, compare with the committed table, write it."""

import sys
import tempfile
from pathlib import Path

import pandas as pd

from experiments.conformance import environments, table
from rlkl.errors import SettingsError, nearest
from rlkl.reports.console import console, errors
from rlkl.runs.folder.files import write

READ = [
    f"read.{path.stem}"
    for path in sorted((table.FOLDER / "read").glob("[a-z]*.py"))
    if path.stem not in ("estimators", "policy_gradient")
]
LIVE = [f"live.{name}" for name in environments.live_names()]


def main(names: list[str]) -> int:
    """Run the libraries that are named, by default all; status 1 where a row is otherwise than the committed one."""
    for name in names:
        if name not in (*READ, *LIVE):
            raise SettingsError("conformance", name, nearest(name, [*READ, *LIVE]))
    committed, parts = table.read_rows(table.TABLE), []
    with tempfile.TemporaryDirectory() as folder:
        for name in names or [*READ, *LIVE]:
            errors.print(f"running {name}", markup=False)
            how, _, library = name.partition(".")
            python = environments.environment(library) if how == "live" else Path(sys.executable)
            output = Path(folder) / f"{name}.csv"
            environments.write_rows(python, f"{how}.{library.partition('-')[0]}", output)
            parts.append(table.read_rows(output))
    measured = pd.concat(parts, ignore_index=True)
    origin = ["library", "version"]
    replaced = committed.set_index(origin).index.isin(measured.set_index(origin).index) | (not names)
    changes = list(table.differences(committed[replaced], measured))
    for change in changes:
        console.print(change, markup=False)
    write(table.TABLE, pd.concat([committed[~replaced], measured], ignore_index=True).to_csv(index=False))
    console.print(f"wrote {table.TABLE.name}: {len(measured)} rows, {len(changes)} changes", markup=False)
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
