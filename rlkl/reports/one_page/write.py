"""Write the report on a folder."""

from pathlib import Path

from rlkl.errors import SettingsError
from rlkl.runs.folder import files

DEFAULT_NAME = "report.html"


def write_report(folder: str, out: str | None = None) -> Path:
    """Write the report on the run or sweep in a folder, and return its path.

    out: where to, as HTML or PDF by the name's ending; by default report.html in the folder. Raises `SettingsError`, and
    `OSError` where the file cannot be written.
    """
    path = Path(folder) / DEFAULT_NAME if out is None else Path(out)
    if path.suffix not in (".html", ".pdf"):
        raise SettingsError("--out", str(out), "must end in .html or .pdf")
    from rlkl.reports.one_page import contents

    report = contents.gather(folder)
    if path.suffix == ".pdf":
        from rlkl.reports.one_page import pdf

        files.write(path, pdf.document(report))
    else:
        from rlkl.reports.one_page import page

        files.write(path, page.page(report))
    return path
