"""The format of what is compared: from its first bytes, or from its prefix where it is a model."""

from rlkl.diagnostics.compare.hugging_face import PREFIX
from rlkl.errors import SettingsError

LLAMA_CPP = b"_logits_"
JSON = (b"{", b"[")
PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def common(base: str, quant: str) -> str:
    """The format of both: `npz`, `llama.cpp`, `JSON` or `model`; raises `SettingsError` if they differ or cannot be read."""
    kinds = {key: _kind(path, key) for key, path in (("BASE", base), ("QUANT", quant))}
    if kinds["BASE"] != kinds["QUANT"]:
        rule = f"is of the format {kinds['QUANT']}, and BASE of {kinds['BASE']}: they must be of one"
        raise SettingsError("QUANT", quant, rule)
    return kinds["BASE"]


def _kind(path: str, key: str) -> str:
    if path.startswith(PREFIX):
        return "model"
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
    if start.startswith(PICKLE):
        raise SettingsError(key, path, "is a pickle, which can run code when it is loaded: save arrays with numpy.savez")
    rule = "is truncated or damaged, or is no .npz file, no KL base file of llama.cpp and no JSON"
    raise SettingsError(key, path, rule)
