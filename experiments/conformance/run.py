"""Write the rows of one library's module as CSV: `python -m experiments.conformance.run MODULE FILE`."""

import datetime
import importlib
import logging
import sys
import warnings
from pathlib import Path

from rlkl.config import machine


def main(name: str, output: Path) -> None:
    """Run every setting of a module."""
    machine.compile_quickly()
    machine.configure()
    warnings.simplefilter("ignore")  # the libraries'
    logging.disable(logging.WARNING)
    module = importlib.import_module(f"experiments.conformance.{name}")
    from experiments.conformance import table
    from rlkl.runs.folder.files import write

    today = datetime.date.today().isoformat()
    write(output, table.as_csv(table.module_rows(module, today)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
