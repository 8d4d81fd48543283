"""Compression: what knowing the true distribution saves on the wire, by coders that send real bits.

Sources: Shannon 1948; Huffman 1952; Martin 1979 (range coding); Cover and Thomas, "Elements of
Information Theory" (2006), chapter 5.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.compression.measured import BLOCKS, ORDER, SIZES, table
from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from rlkl.reports import plots

__all__ = ["claims", "draw", "table"]

CODES = {"range code": (plots.BLUE, "o"), "Huffman's code": (plots.ORANGE, "v")}
ARCHIVES = {"zlib": (plots.VERMILION, "s"), "lzma": (plots.GREEN, "^"), "range code": (plots.BLUE, "o")}


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    wire, sent, policies = (drawn[drawn["panel"] == name] for name in ("wire", "sent", "policies"))
    of = lambda panel, name: series.of(drawn, panel, name)  # noqa: E731
    saved, misprint = of("wire", "range code"), of("wire", "the misprint")
    arithmetic, huffman = (sent[sent["series"] == f"{name} less cross-entropy"]["y"] for name in CODES)
    expected = of("blocks", "Huffman, expected")
    archive = lambda name: series.value(drawn, "archives", name, max(SIZES))  # noqa: E731
    repacked = series.ratio(_bytes(drawn, "lzma"), _bytes(drawn, "zlib"))
    bound = of("archives", "entropy")
    above = [
        row.y - entropy.y + 4.0 * entropy.error
        for name in ARCHIVES
        for row, entropy in zip(of("archives", name).itertuples(), bound.itertuples(), strict=False)
    ]
    return [
        at_most("bits saved less KL(p‖q), in standard errors: the largest", _worst(saved), 4.0),
        at_most("the spread of that stays small: largest standard error, bits", series.largest(wire["error"]), 0.05),
        at_least("-sum p lg p - sum p lg q, sometimes printed for the saving: least excess, bits",
                 series.smallest(misprint["y"] - misprint["x"]), 2.0),
        at_most("range code: bits a token above the stream's cross-entropy", series.largest(arithmetic.abs()), 1e-3),
        at_most("Huffman's code: bits a token above it, the largest", series.largest(huffman), 1.0),
        at_least("Huffman's code: bits a token above it, the largest (it is not nothing)", series.largest(huffman), 0.02),
        at_least("Huffman in blocks of n: least slack below 1/n", series.smallest(1.0 / expected["x"] - expected["y"]), 0.0),
        at_least("Huffman in blocks: least loss, which is never negative", series.smallest(expected["y"]), 0.0),
        at_least("Huffman, no blocks: loss of bits a toss", series.value(drawn, "blocks", "Huffman, expected", 1), 0.7),
        at_most("Huffman, blocks of 10: loss of bits a toss", series.value(drawn, "blocks", "Huffman, expected", 10), 0.02),
        at_most("Huffman in blocks: what was sent against what was expected, bits a toss",
                series.largest(abs(of("blocks", "Huffman, sent")["y"].to_numpy() - expected["y"].to_numpy())), 5e-3),
        at_most("a policy's sentences in the reference's code: extra bits less KL(pi‖pi_ref), in standard errors",
                _worst(policies), 4.0),
        at_least("the largest such cost, bits a sentence", series.largest(policies["y"]), 2.0),
        near("real text: bits a letter above the model's cross-entropy",
             _difference(of("text", "range code"), of("text", "cross-entropy")), 0.0, 5e-3),
        at_most("real text: bits a letter, by three before it", series.value(drawn, "text", "range code", ORDER), 2.6),
        at_least("no code below the entropy: least bits a sentence above it (4 standard errors allowed)",
                 series.smallest(above), 0.0),
        at_least("re-packing .zip as .7z: bits a sentence saved", archive("zlib") - archive("lzma"), 2.0),
        at_least("what lzma leaves above the entropy, bits a sentence", archive("lzma") - archive("entropy"), 2.0),
        at_least("the same of real text: share of bytes saved", 1.0 - repacked, 0.05),
    ]  # fmt: skip


def _worst(found: pd.DataFrame) -> float:
    """How far y lies from x, in standard errors."""
    return series.largest((found["y"] - found["x"]).abs() / found["error"])


def _difference(first: pd.DataFrame, second: pd.DataFrame) -> float:
    return series.largest(abs(first["y"].to_numpy() - second["y"].to_numpy()))


def _bytes(drawn: pd.DataFrame, method: str) -> float:
    """What the real text takes."""
    return series.value(drawn, "archives", f"real text, {method}")


def draw(drawn: pd.DataFrame) -> Figure:
    """Saving by KL(p‖q); Huffman's loss by block length; a policy's cost by KL(pi‖pi_ref); letters; archives."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 4.4))
        (wire, blocks, policies), (letters, archives, real) = figure.subplots(2, 3)
        _wire(wire, drawn)
        _blocks(blocks, drawn)
        _policies(policies, drawn)
        _letters(letters, drawn)
        _archives(archives, drawn)
        _real(real, drawn)
        return figure


def _wire(axes, drawn):
    for name, (colour, marker) in CODES.items():
        found = series.of(drawn, "wire", name)
        axes.plot(found["x"], found["y"], marker, color=colour, mfc="none" if marker == "v" else colour, label=name)
    wrong = series.of(drawn, "wire", "the misprint")
    axes.plot(wrong["x"], wrong["y"], "x", color=plots.GREY, label="-Σ p lg p - Σ p lg q")
    reach = [0.0, 1.05 * wrong["x"].max()]
    axes.plot(reach, reach, color=plots.BLACK, lw=0.8)
    axes.set(xlabel="KL(p‖q), bits", ylabel="bits a token", title="saved by re-coding for p", ylim=(-0.3, 14.0))
    axes.legend(loc="upper left")


def _blocks(axes, drawn):
    n = np.array(BLOCKS)
    axes.plot(n, 1.0 / n, color=plots.GREY, label="bound 1/n")
    found = series.of(drawn, "blocks", "Huffman, expected")
    axes.plot(found["x"], found["y"], color=plots.ORANGE, label="Huffman, expected")
    found = series.of(drawn, "blocks", "Huffman, sent")
    axes.plot(found["x"], found["y"], "v", color=plots.ORANGE, label="Huffman, sent")
    axes.axhline(series.value(drawn, "blocks", "range code, sent"), color=plots.BLUE, label="range code, sent")
    axes.set(xlabel="tosses in a block", ylabel="bits a toss above entropy", title="a coin of .05, in blocks")
    axes.set_yscale("symlog", linthresh=1e-2)
    axes.set_ylim(-1e-3, 3.0)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.03))


def _policies(axes, drawn):
    found = drawn[drawn["panel"] == "policies"]
    axes.errorbar(found["x"], found["y"], 2.0 * found["error"], fmt="o", color=plots.BLUE)
    reach = [0.0, 1.15 * found["x"].max()]
    axes.plot(reach, reach, color=plots.BLACK, lw=0.8)
    for row in found.itertuples():
        right = row.x < 0.7 * found["x"].max()
        axes.annotate(row.series, (row.x, row.y), xytext=(6, -3) if right else (-6, 2), textcoords="offset points", fontsize=7,
                      ha="left" if right else "right")  # fmt: skip
    axes.set(xlabel="KL(pi‖pi_ref), bits", ylabel="extra bits a sentence", title="a policy in pi_ref's code")
    axes.set_ylim(-0.3, None)


def _letters(axes, drawn):
    found = series.of(drawn, "text", "cross-entropy")
    axes.plot(found["x"], found["y"], color=plots.BLACK, lw=0.8, label="cross-entropy")
    for name, (colour, marker) in CODES.items():
        found = series.of(drawn, "text", name)
        axes.plot(found["x"], found["y"], marker, color=colour, label=name)
    axes.set(
        xlabel="letters of context", ylabel="bits a letter", title="unseen real text", xticks=range(ORDER + 1), ylim=(1.7, 5)
    )
    axes.legend(loc="upper right")


def _archives(axes, drawn):
    found = series.of(drawn, "archives", "entropy")
    axes.plot(found["x"], found["y"], color=plots.BLACK, lw=0.8, label="entropy")
    for name, (colour, marker) in ARCHIVES.items():
        found = series.of(drawn, "archives", name)
        axes.plot(found["x"], found["y"], marker, color=colour, label=name, ls="-" if name != "range code" else "")
    axes.set(xscale="log", xlabel="sentences", ylabel="bits a sentence", title="the same sentences, packed", ylim=(0, 105))
    axes.legend(loc="upper right")


def _real(axes, drawn):
    names = ("zlib", "lzma")
    sizes = [_bytes(drawn, name) / 1024.0 for name in names]
    bars = axes.bar(names, sizes, 0.55, color=[ARCHIVES[name][0] for name in names])
    axes.bar_label(bars, [f"{size:.0f}" for size in sizes], fontsize=7)
    axes.set(ylabel="KiB", title="real text: .zip as .7z")
