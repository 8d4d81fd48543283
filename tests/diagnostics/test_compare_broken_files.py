"""Every format that `rlkl compare` reads: a file that is no such file is one line of error, and nothing in it runs."""

import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
from scipy import special

import rlkl
from rlkl import cli
from rlkl.errors import SettingsError
from tests.diagnostics import kl_base_file, server_responses

LOG_P = special.log_softmax(np.random.default_rng(0).normal(size=(6, 8)), axis=1)
TOKENS = [3, 1, 0, 7, 2, 5, 4]


class Payload:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write(folder, kind: str, name: str = "good") -> str:
    path = folder / f"{name}.{kind}"
    if kind == "npz":
        np.savez(path, log_probs=LOG_P)
    elif kind == "kld":
        kl_base_file.write(path, kl_base_file.text(2, 9, 8), kl_base_file.logits(2, 9, 8, 1.0, 0))
    else:
        server_responses.write(path, [server_responses.sglang_prompt(LOG_P, TOKENS, 3)])
    return str(path)


def pickled(ran) -> bytes:
    return pickle.dumps(Payload(ran))


def torch_file(ran) -> bytes:
    """As torch.save writes: an archive with a pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(ran))
    return buffer.getvalue()


def object_array(ran) -> bytes:
    """A .npz file with an array of objects, which NumPy keeps as a pickle."""
    buffer = io.BytesIO()
    np.savez(buffer, log_probs=np.array([[Payload(ran)]], dtype=object))
    return buffer.getvalue()


def magic_and_pickle(ran) -> bytes:
    return b"_logits_" + pickled(ran)


CONTENTS = {
    "pickle": pickled,
    "torch": torch_file,
    "objects": object_array,
    "magic": magic_and_pickle,
    "empty": lambda ran: b"",
    "zeros": lambda ran: bytes(5000),
    "text": lambda ran: b"all you need is love",
    "archive": lambda ran: b"PK\x03\x04" + bytes(100),
    "brace": lambda ran: b"{" + pickled(ran),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("kind", ["npz", "kld", "json"])
def test_what_is_no_such_file_is_refused_and_not_run(tmp_path, capsys, monkeypatch, kind, content):
    monkeypatch.chdir(tmp_path)
    good, bad = write(tmp_path, kind), tmp_path / f"bad.{kind}"
    bad.write_bytes(CONTENTS[content](tmp_path / "ran"))
    for arguments in ((good, str(bad)), (str(bad), good), (str(bad), str(bad))):
        assert cli.main(["compare", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and len(line) < 320
    assert not (tmp_path / "ran").exists() and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("kind", ["npz", "kld", "json"])
def test_a_file_cut_anywhere_is_refused(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    good = write(tmp_path, kind)
    assert cli.main(["compare", good, good]) == 0
    with open(good, "rb") as file:
        content = file.read()
    capsys.readouterr()
    for keep in range(0, len(content) - 1, max(1, len(content) // 25)):
        (tmp_path / "cut").write_bytes(content[:keep])
        assert cli.main(["compare", good, str(tmp_path / "cut")]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line[0].isdigit()]
        assert len(lines) == 1 and lines[0].startswith("error: QUANT"), (keep, lines)


@pytest.mark.parametrize("kind", ["npz", "kld", "json"])
def test_a_file_with_random_bytes_is_read_or_refused(tmp_path, kind):
    """Nothing but the errors of one line is raised, warnings included."""
    draw, good, bad = np.random.default_rng(0), write(tmp_path, kind), tmp_path / "bad"
    content = np.fromfile(good, np.uint8)
    refused = 0
    for _ in range(150):
        changed = content.copy()
        changed[draw.integers(len(content), size=draw.integers(1, 9))] = draw.choice([draw.integers(256), *b'"9[-e'])
        changed.tofile(bad)
        try:
            rlkl.compare(good, bad)
        except SettingsError:
            refused += 1
    assert 75 < refused <= 150


@pytest.mark.parametrize("kind", ["npz", "kld", "json"])
def test_a_folder_and_a_missing_file_are_refused(tmp_path, capsys, kind):
    good = write(tmp_path, kind)
    for bad, said in ((tmp_path, "cannot be read (Is a directory)"), (tmp_path / f"none.{kind}", "there is no such file")):
        assert cli.main(["compare", good, str(bad)]) == 2
        assert said in capsys.readouterr().err


def test_without_the_extra_models_are_refused_in_one_line(tmp_path, capsys, monkeypatch):
    for module in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "text").write_text("a cat")
    assert cli.main(["compare", "hf:a", "hf:b", f"text={tmp_path}/text"]) == 2
    assert capsys.readouterr().err == "error: hf: models need PyTorch and transformers: pip install 'rlkl[hf]'\n"
