"""Two Hugging Face models, run on a text: a stream of rows. The text is cut into windows, which are scored in batches."""

from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from rlkl.diagnostics.compare import stream
from rlkl.diagnostics.compare.stream import Block, Stream
from rlkl.errors import SettingsError, one_line

PREFIX = "hf:"
CONTEXT, BATCH = 512, 4


class Windows(NamedTuple):
    """The settings of scoring: tokens of a window, windows scored at once, and torch's name of the device."""

    context: int = CONTEXT
    batch: int = BATCH
    device: str | None = None


def read(base: str, quant: str, text: Path, windows: Windows) -> Stream:
    """Load two models, from local folders or the hub's cache, and return a stream of their rows on a text file.

    base and quant are `hf:NAME`. BASE's tokenizer cuts the text into tokens, and QUANT's must agree. A window's first token is
    predicted by nothing, so that a window of n tokens has n - 1 positions. Log-probabilities are log_softmax in float32. Only
    safetensors are loaded, no pickle and no code of a model's folder. Raises `SettingsError` for what cannot be loaded and for
    different vocabularies.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise SettingsError("hf", "", "models need PyTorch and transformers: pip install 'rlkl[hf]'") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    names = {key: name.removeprefix(PREFIX) for key, name in (("BASE", base), ("QUANT", quant))}
    ids = _ids(names, _content(text), text)
    models = {}
    for key, name in names.items():
        try:
            device = torch.device(windows.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise SettingsError("device", windows.device, f"is no device of PyTorch's ({one_line(error)})") from None
        models[key] = _loaded(transformers.AutoModelForCausalLM, name, key, use_safetensors=True).to(device).eval()
    sizes = {key: model.config.get_text_config().vocab_size for key, model in models.items()}
    if sizes["BASE"] != sizes["QUANT"]:
        rule = f"has a vocabulary of {sizes['QUANT']:,}, and BASE of {sizes['BASE']:,}: they must be the same"
        raise SettingsError("QUANT", quant, rule)
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None) for model in models.values()]
    size = min([windows.context, *(limit for limit in limits if limit)])
    pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if not pieces:
        raise SettingsError("text", str(text), "has fewer than two tokens")
    chunks = np.repeat(np.arange(len(pieces)), [len(piece) - 1 for piece in pieces])
    return Stream(len(chunks), sizes["BASE"], _blocks(models, pieces, windows.batch), chunks, "windows")


def _content(text: Path) -> str:
    try:
        return text.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError("text", str(text), f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsError("text", str(text), "is no text in UTF-8") from None


def _ids(names: dict[str, str], content: str, text: Path) -> Int[np.ndarray, " T"]:
    """The text's tokens; raises `SettingsError` if the models' tokenizers differ."""
    from transformers import AutoTokenizer

    base, quant = (_loaded(AutoTokenizer, name, key) for key, name in names.items())
    ids = np.array(base(content, verbose=False)["input_ids"], dtype=np.int64)
    differs = base.get_vocab() != quant.get_vocab()
    if differs or not np.array_equal(ids, quant(content, verbose=False)["input_ids"]):
        what = "vocabularies" if differs else "tokens of the text"
        raise SettingsError("QUANT", names["QUANT"], f"has another tokenizer than BASE: their {what} differ")
    return ids


def _loaded(kind: Any, name: str, key: str, **options: Any) -> Any:
    """What transformers loads under a name; every failure is an error of one line."""
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise SettingsError(key, f"{PREFIX}{name}", f"cannot be loaded ({one_line(error)})") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise SettingsError(key, f"{PREFIX}{name}", f"is truncated or damaged ({one_line(error)})") from None


def _blocks(models: dict[str, Any], pieces: list[np.ndarray], batch: int) -> Generator[Block, None, None]:
    import torch

    done, start = 0, 0
    while start < len(pieces):
        same = [piece for piece in pieces[start : start + batch] if len(piece) == len(pieces[start])]
        start += len(same)
        windows = np.stack(same)
        tokens = windows[:, 1:].reshape(-1)
        with torch.inference_mode():
            logits = [model(torch.from_numpy(windows).to(model.device)).logits[:, :-1] for model in models.values()]
            rows = [one.reshape(len(tokens), -1) for one in logits]
            size = stream.at_once(rows[0].shape[1])
            for first in range(0, len(tokens), size):
                last = first + size
                log_p, log_q = (
                    _log_probs(side[first:last], f"{key}, position {done + first}")
                    for key, side in zip(models, rows, strict=True)
                )
                yield Block(log_p, log_q, tokens[first:last])
        done += len(tokens)


def _log_probs(logits: Any, where: str) -> np.ndarray:
    """Normalised log-probabilities in float64 of a model's logits; `where` names their first position in errors."""
    log_p = logits.float().log_softmax(-1).cpu().numpy().astype(np.float64)
    if np.isnan(log_p).any():
        raise SettingsError(where, "", "has a NaN, or one of the next positions has: the model overflows on this text")
    return log_p
