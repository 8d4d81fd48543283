"""`rlkl compare hf:BASE hf:QUANT`: tiny random models made here, against a plain loop over their logits in float64."""

import math
import pickle

import numpy as np
import pytest
from scipy import special

import rlkl
from rlkl import cli
from rlkl.diagnostics.compare import stream
from rlkl.errors import SettingsError

KLD, REVERSE = "KL(base‖quant)", "KL(quant‖base)"
WORDS = [
    "ran",
    "over",
    "hills",
    "to",
    "see",
    "if",
    "rain",
    "would",
    "fall",
    "on",
    "their",
    "small",
    "red",
    "house",
    "cat",
    "dog",
    "sun",
]
TEXT = " ".join(np.random.default_rng(0).choice(WORDS, 150))


def tokenizer(words: list[str]):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words_tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    words_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words_tokenizer, unk_token="<unk>")


def save_model(folder, seed: int = 0, noise: float = 0.0, words: list[str] = WORDS, kind: str = "gpt2") -> str:
    """A random model of the words and its tokenizer; `noise` perturbs its weights."""
    import torch
    import transformers

    torch.manual_seed(seed)
    size = {"vocab_size": len(words) + 1}
    if kind == "gpt2":
        config = transformers.GPT2Config(**size, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
        model = transformers.GPT2LMHeadModel(config)
    else:
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
        config = transformers.LlamaConfig(**size, **heads, hidden_size=16, intermediate_size=32, max_position_embeddings=32)
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)  # else all tokens are about as likely
            weight += noise * torch.randn_like(weight)
    model.save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def text(tmp_path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def rows(name: str, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and tokens by a plain loop over windows, one at a time, in float64 from the logits on."""
    import torch
    import transformers

    folder = name.removeprefix("hf:")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    log_p, tokens = [], []
    for start in range(0, len(ids), context):
        window = ids[start : start + context]
        with torch.no_grad():
            logits = model(torch.tensor([window])).logits[0].numpy().astype(np.float64)
        log_p += list(special.log_softmax(logits[:-1], axis=1))
        tokens += window[1:]
    return np.array(log_p), np.array(tokens)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("context, batch, elements", [(16, 3, 2**17), (20, 1, 50), (32, 8, 1)])
def test_the_table_is_that_of_a_plain_loop(tmp_path, text, monkeypatch, kind, context, batch, elements):
    monkeypatch.setattr(stream, "ELEMENTS", elements)
    base = save_model(tmp_path / "base", kind=kind)
    quant = save_model(tmp_path / "quant", noise=0.05, kind=kind)
    done = []
    comparison = rlkl.compare(base, quant, lambda *progress: done.append(progress), text=text, context=context, batch=batch)
    (log_p, tokens), (log_q, _) = rows(base, context), rows(quant, context)
    p, q, index = np.exp(log_p), np.exp(log_q), (np.arange(len(tokens)), tokens)
    assert comparison.value(KLD, "mean") == pytest.approx(special.rel_entr(p, q).sum(1).mean(), rel=1e-4)
    assert comparison.value(REVERSE, "maximum") == pytest.approx(special.rel_entr(q, p).sum(1).max(), rel=1e-4)
    assert comparison.value("same top p", "mean") == pytest.approx(100.0 * np.mean(p.argmax(1) == q.argmax(1)))
    assert comparison.value("perplexity", "quant") == pytest.approx(np.exp(-log_q[index].mean()), rel=1e-5)
    assert comparison.value(KLD, "mean") > 1e-3
    assert (comparison.length, comparison.vocabulary) == (len(tokens), len(WORDS) + 1)
    assert comparison.chunks == math.ceil(150 / context)
    assert done[-1] == (len(tokens), len(tokens))


def test_a_context_beyond_the_models_is_their_largest(tmp_path, text):
    name = save_model(tmp_path / "base")
    comparison = rlkl.compare(name, name, text=text)
    assert comparison.chunks == math.ceil(150 / 32) and comparison.value(KLD, "maximum") == 0.0


def test_the_command_compares_models(tmp_path, text, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base, quant = save_model(tmp_path / "base"), save_model(tmp_path / "quant", noise=0.05)
    assert cli.main(["compare", base, quant, f"text={text}", "context=16", "batch=2", "device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "quant against base: 140 positions x 18 tokens" in out and "10 independent windows" in out


def test_models_that_do_not_fit_together_are_refused(tmp_path, text):
    base = save_model(tmp_path / "base")
    other = save_model(tmp_path / "other", words=WORDS[::-1])
    with pytest.raises(SettingsError, match="has another tokenizer than BASE: their vocabularies differ"):
        rlkl.compare(base, other, text=text)
    larger = save_model(tmp_path / "larger", words=[*WORDS, "more"])
    tokenizer(WORDS).save_pretrained(tmp_path / "larger")
    with pytest.raises(SettingsError, match="has a vocabulary of 19, and BASE of 18"):
        rlkl.compare(base, larger, text=text)


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path, text, capsys):
    base = save_model(tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    content = weights.read_bytes()

    def refusal(*arguments: str) -> str:
        assert cli.main(["compare", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "text: is missing" in refusal(base, base)
    assert "cannot be read" in refusal(base, base, f"text={tmp_path}/none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "is no text in UTF-8" in refusal(base, base, f"text={tmp_path}/latin.txt")
    (tmp_path / "short.txt").write_text("cat")
    assert "has fewer than two tokens" in refusal(base, base, f"text={tmp_path}/short.txt")
    assert "BASE='hf:no/model': cannot be loaded" in refusal("hf:no/model", base, f"text={text}")
    assert "context=1: must be at least 2" in refusal(base, base, f"text={text}", "context=1")
    assert "device='abacus': is no device of PyTorch's" in refusal(base, base, f"text={text}", "device=abacus")
    assert "is of the format model, and BASE of" in refusal(save_rows(tmp_path), base)
    weights.write_bytes(content[: len(content) // 2])
    assert "is truncated or damaged" in refusal(base, base, f"text={text}")
    (tmp_path / "base" / "config.json").write_text("{")
    assert "BASE='hf:" in refusal(base, base, f"text={text}")


def save_rows(folder) -> str:
    np.savez(folder / "rows.npz", log_probs=np.log([[0.5, 0.5]]))
    return str(folder / "rows.npz")


class Payload:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_weights_in_a_pickle_are_not_loaded(tmp_path, text):
    base = save_model(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(SettingsError, match=r"BASE.*cannot be loaded"):
        rlkl.compare(base, base, text=text)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_overflows_is_refused(tmp_path, text):
    import torch
    import transformers

    base = save_model(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(math.nan)
    model.save_pretrained(tmp_path / "broken")
    tokenizer(WORDS).save_pretrained(tmp_path / "broken")
    with pytest.raises(SettingsError, match="QUANT, position 0: has a NaN"):
        rlkl.compare(base, f"hf:{tmp_path}/broken", text=text)
