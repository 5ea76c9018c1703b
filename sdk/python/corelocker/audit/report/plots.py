"""The plots of the page, as SVG that is the same for the same data."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from corelocker.audit import need
from corelocker.audit.report.verdict import withstood
from corelocker.audit.report.wording import size

# Okabe and Ito's palette: told apart with any color vision, and in gray by lightness and shape.
BLUE, ORANGE, GREEN, VERMILION, GRAY, INK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8f98", "#1c2128"
LABELS_APART = 0.2  # decades of the curve's axis
MAX_ROWS = 70  # layers of the heat map
PLOT_STYLE = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


class _Plot:
    """A matplotlib figure that becomes an SVG string, the same for the same data."""

    def __init__(self, width: float, height: float) -> None:
        self.figure: Any = need("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
        self.axes: Any = self.figure.subplots()

    def svg(self, title: str) -> str:
        """The picture, with a title for those who do not see it."""
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with need("matplotlib").rc_context({"svg.hashsalt": title}):  # ids that no other figure has
            self.figure.savefig(buffer, format="svg", metadata=nothing)
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(
            r'<g id="[^"]*">', "<g>", text
        )  # names of parts, the same in every figure, that nothing refers to
        start = text.index(">")
        head = re.sub(r' (?:width|height)="[^"]*"', "", text[:start])
        return head.replace("<svg", f'<svg role="img" aria-label="{escape(title, quote=True)}"', 1) + text[start:]


def _unit(metric: Mapping[str, Any]) -> tuple[float, str]:
    return (100.0, f"{metric['name']}, %") if metric["proportion"] else (1.0, str(metric["name"]))


def curve_plot(document: Mapping[str, Any]) -> str:
    """Utility over the removed fraction, the random baseline beside it, key bytes on the second axis."""
    metric = document["metric"]
    factor, label = _unit(metric)
    plot = _Plot(8.6, 4.2)
    axes = plot.axes
    styles = {0: (BLUE, "o", "-"), 1: (ORANGE, "s", "--"), 2: (GREEN, "^", ":")}
    series = list(dict.fromkeys(p["series"] for p in document["curve"]))
    for place, name in enumerate(series):
        points = [p for p in document["curve"] if p["series"] == name]
        x = [100 * p["removed"] for p in points]
        y, low, high = ([factor * p["utility"][k] for p in points] for k in ("value", "low", "high"))
        color, marker, line = styles[place % 3]
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        words = "random channels (baseline)" if name == "random" else f"ranked by {name}"
        axes.plot(x, y, color=color, marker=marker, linestyle=line, label=words, markersize=5)
    axes.axhline(
        factor * document["original"]["value"], color=INK, linewidth=1, linestyle=(0, (1, 1)), label="unlocked"
    )
    if metric["chance"] is not None:
        axes.axhline(
            factor * metric["chance"], color=VERMILION, linewidth=1, linestyle=(0, (4, 2)), label="blind guess"
        )
    for tier in document["tiers"][:-1]:
        utility = tier["utility"]["value"]
        axes.plot([100 * tier["removed"]], [factor * utility], marker="D", color=INK, markersize=7, linestyle="none")
        axes.annotate(tier["name"], (100 * tier["removed"], factor * utility), textcoords="offset points",
                      xytext=(7, 7), fontweight="bold")  # fmt: skip
    axes.set_xscale("log")
    ticks = sorted({100 * p["removed"] for p in document["curve"]})
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("channels removed, %")
    axes.set_ylabel(label)
    if metric["proportion"]:
        axes.set_ylim(0, 103)
    elif not metric["higher_is_better"]:
        axes.set_yscale("log")
    first = [p for p in document["curve"] if p["series"] == series[0]]
    upper = axes.twiny()
    upper.set_xscale("log")
    upper.set_xlim(axes.get_xlim())
    shown: list[Mapping[str, Any]] = []
    for point in first:  # labels that would run into each other are left out
        if not shown or math.log10(point["removed"] / shown[-1]["removed"]) > LABELS_APART:
            shown.append(point)
    upper.set_xticks([100 * p["removed"] for p in shown], [size(p["locked_bytes"]) for p in shown], fontsize=8.5)
    upper.minorticks_off()
    upper.grid(False)
    upper.set_xlabel(f"size of the access key (ranked by {series[0]})", fontsize=9)
    axes.legend(fontsize=9)
    return plot.svg("Utility over the fraction of channels removed")


def attack_plot(document: Mapping[str, Any]) -> str:
    """A bar for each attack, from the locked model to what it reaches; its baseline is a diamond."""
    metric = document["metric"]
    factor, label = _unit(metric)
    attacks = [a for a in document["attacks"] if a["metric"] != "auc"]
    plot = _Plot(8.6, 1.5 + 0.34 * len(attacks))
    axes = plot.axes
    for row, attack in enumerate(attacks):
        locked, recovered = factor * attack["locked"], factor * attack["recovered"]
        held = withstood(document, attack)
        axes.barh(row, recovered, color=GREEN if held else ORANGE, height=0.62, hatch=None if held else "///",
                  edgecolor="white", linewidth=0)  # fmt: skip
        axes.plot([locked, locked], [row - 0.31, row + 0.31], color=INK, linewidth=2)
        if attack["baseline"] is not None:
            axes.plot(
                [factor * attack["baseline"]], [row], marker="D", color=BLUE, markeredgecolor="white", markersize=8
            )
        end = max(recovered, locked, factor * (attack["baseline"] or 0.0))
        words = f"{recovered:.1f}" if metric["proportion"] else f"{recovered:.3g}"
        axes.annotate(words, (end, row), textcoords="offset points", xytext=(8, 0), va="center", fontsize=9,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    axes.set_yticks(range(len(attacks)), [_wrapped(a["title"]) for a in attacks], fontsize=9)
    axes.set_ylim(len(attacks) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.axvline(factor * document["original"]["value"], color=INK, linewidth=1, linestyle=(0, (1, 1)))
    if metric["proportion"]:
        axes.set_xlim(0, 103)
    axes.set_xlabel(f"{label} after the attack")
    lines, patches = need("matplotlib.lines"), need("matplotlib.patches")
    axes.legend(
        handles=[
            patches.Patch(facecolor=ORANGE, hatch="///", edgecolor="white", label="regains more than a tenth of the gap"),
            patches.Patch(facecolor=GREEN, label="regains at most a tenth"),
            lines.Line2D([], [], marker="D", color=BLUE, linestyle="none", label="baseline, same budget"),
            lines.Line2D([], [], color=INK, linewidth=2, label="locked"),
            lines.Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 1)), label="unlocked"),
        ],
        fontsize=8.5, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0),
    )  # fmt: skip
    return plot.svg("Utility after each attack")


def location_plot(document: Mapping[str, Any]) -> str:
    """How well each detector finds locked channels: 0.5 is blind, 1 finds all."""
    found = [a for a in document["attacks"] if a["name"].startswith("location")]
    plot = _Plot(8.6, 1.2 + 0.3 * len(found))
    axes = plot.axes
    for row, attack in enumerate(found):
        value = attack["recovered"]
        axes.barh(row, value - 0.5, left=0.5, color=GREEN if abs(value - 0.5) <= 0.1 else ORANGE, height=0.6)
        axes.annotate(
            f"{value:.2f}", (max(value, 0.5), row), textcoords="offset points", xytext=(5, 0), va="center", fontsize=9
        )
    axes.set_yticks(
        range(len(found)), [_wrapped(a["title"].removeprefix("Finding locked channels by ")) for a in found], fontsize=9
    )
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.axvline(0.5, color=INK, linewidth=1)
    axes.set_xlim(min(0.4, *(a["recovered"] for a in found)) - 0.02, 1.05)
    axes.set_xlabel("AUC: chance that the detector ranks a locked channel above an untouched one")
    return plot.svg("How well detectors find locked channels")


def _wrapped(text: str, width: int = 46) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:2])


def heat_map(document: Mapping[str, Any]) -> str:
    """Where the locked channels of the tier that ships are: a row for each layer, its channels from left to right."""
    layers = document["layers"][:MAX_ROWS]
    columns = 64
    image = np.full((len(layers), columns), np.nan)
    for row, layer in enumerate(layers):
        locked = np.asarray(layer["tier_of"]) > 0
        bins = (np.arange(columns) * locked.size) // columns
        ends = np.maximum(bins + 1, ((np.arange(columns) + 1) * locked.size) // columns)
        image[row] = [locked[a:b].mean() for a, b in zip(bins, ends, strict=True)]
    height = 1.1 + 0.17 * len(layers)
    plot = _Plot(8.6, max(2.2, height))
    axes = plot.axes
    axes.grid(False)
    shown = axes.imshow(image, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks(range(len(layers)), [_short(layer["name"]) for layer in layers], fontsize=7)
    axes.set_xticks([0, columns - 1], ["first channel", "last channel"], fontsize=8.5)
    axes.tick_params(length=0)
    for row, layer in enumerate(layers):
        locked = np.asarray(layer["tier_of"]) > 0
        axes.annotate(
            f"{locked.sum()} of {locked.size}", (columns - 0.3, row), annotation_clip=False, va="center", fontsize=7
        )
    bar = plot.figure.colorbar(shown, ax=axes, location="top", shrink=0.4, aspect=30, pad=0.01)
    bar.set_label("share of channels that are locked", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    return plot.svg("Where the locked channels are, layer by layer")


def _short(name: str, most: int = 34) -> str:
    name = name.removesuffix(".weight")
    return name if len(name) <= most else f"…{name[-most + 1 :]}"


def bounds_plot(document: Mapping[str, Any]) -> str:
    """Measured disparity (lower) and certificate (upper), layer by layer."""
    layers = document["bounds"]["layers"]
    plot = _Plot(8.6, 3.8)
    axes = plot.axes
    x = range(len(layers))
    for key, color, marker, line, words in (
        ("upper", VERMILION, "v", "-", "certificate: never more than this"),
        ("measured", BLUE, "o", "-", "measured, worst input"),
        ("measured_mean", BLUE, ".", ":", "measured, mean"),
        ("norm", GRAY, "", "--", "size of the original activation"),
    ):
        y = [math.nan if layer[key] is None or layer[key] <= 0 else layer[key] for layer in layers]
        axes.plot(x, y, color=color, marker=marker, linestyle=line, label=words, markersize=4, linewidth=1.4)
    axes.set_yscale("log")
    step = max(1, len(layers) // 16)
    shown = sorted({*range(0, len(layers), step), len(layers) - 1})
    axes.set_xticks(shown, [_short(layers[i]["name"], 22) for i in shown], rotation=45, ha="right", fontsize=7.5)
    axes.set_ylabel("distance, original to locked")
    axes.legend(fontsize=8.5)
    return plot.svg("How far the lock moves each layer's output")
