"""The format of what is compared, from its first bytes."""

from rlkl.errors import SettingsError

LLAMA_CPP = b"_logits_"
JSON = (b"{", b"[")


def common(base: str, quant: str) -> str:
    """The format of both: `npz` or `llama.cpp`; raises `SettingsError` if they differ or a file cannot be read."""
    kinds = {key: _kind(path, key) for key, path in (("BASE", base), ("QUANT", quant))}
    if kinds["BASE"] != kinds["QUANT"]:
        rule = f"is of the format {kinds['QUANT']}, and BASE of {kinds['BASE']}: they must be of one"
        raise SettingsError("QUANT", quant, rule)
    return kinds["BASE"]


def _kind(path: str, key: str) -> str:
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except FileNotFoundError:
        raise SettingsError(key, path, "there is no such file") from None
    except OSError as error:
        raise SettingsError(key, path, f"cannot be read ({error.strerror})") from None
    if start.startswith(LLAMA_CPP):
        return "llama.cpp"
    if start.startswith(b"PK"):
        return "npz"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(JSON):
        return "JSON"
    rule = "is no .npz file, no KL base file of llama.cpp and no JSON, or is damaged"
    raise SettingsError(key, path, rule)
