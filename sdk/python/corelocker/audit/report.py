"""The audit as one self-contained HTML page and as JSON.

The page loads nothing: its style, its plots (SVG) and its data (links to download) are inside, and its content security policy
forbids anything else. The same document gives the same page, byte for byte.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from corelocker.audit import need

FORMAT = "corelocker-audit"
VERSION = 1
# Okabe and Ito's palette: told apart with any color vision, and in gray by lightness and shape.
BLUE, ORANGE, GREEN, VERMILION, GRAY, INK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8f98", "#1c2128"
LEAK = 0.05  # of the metric's range: the limit of what fine-tuning may gain over training from scratch
NEAR_CHANCE = 0.05  # of the way from a blind guess to the original
LABELS_APART = 0.2  # decades of the curve's axis
MAX_ROWS = 70  # layers of the heat map


def plain(value: Any) -> Any:
    """JSON without NaN and infinities (they become null), numpy numbers and arrays as plain ones, sorted nothing."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- the verdict -----------------------------------------------------------------------------------------------------


def verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the measurements mean, in words.

    Returns {"level": "holds" | "partly" | "weak" | "open", "headline", "sentences"}. "holds": as shipped the model is near a blind
    guess, and no attack gains more than 5 % of the metric's range over its baseline. "weak": as shipped the model keeps more
    than half of its worth, or an attack without labels brings that much back. "open": not attacked.
    """
    metric = document["metric"]
    original, shipped = document["original"]["value"], document["tiers"][0]["utility"]["value"]
    worth = _worth(document, shipped)
    best = strongest(document)
    first = document["tiers"][0]
    sentences = [
        f"As shipped (tier “{first['name']}”) the model reaches {number(shipped, metric)}"
        + (f"; a blind guess reaches {number(metric['chance'], metric)}" if metric["chance"] is not None else "")
        + f", the unlocked model {number(original, metric)}.",
        f"The access key that is taken out is {size(first['locked_bytes'])}, "
        f"{_percent(first['locked_fraction'])} of the weights.",
    ]
    leak = None
    if best is not None:
        leak = _share(document, _leak(best))
        sentences.append(_attack_sentence(best, metric))
    else:
        sentences.append("No attack was run, so this says nothing about what an attacker could bring back.")
    if not document["bit_exact"]:
        sentences.append("The last tier is NOT bit-identical to the original.")
    free = max((_worth(document, a["recovered"]) or 0.0 for a in document["attacks"] if _unlabeled(a)), default=0.0)
    if worth is not None and (worth > 0.5 or free > 0.5):
        level = "weak"
        headline = (
            "As shipped, the model still works"
            if worth > 0.5
            else f"{'Useless' if worth <= NEAR_CHANCE else 'Weaker'} as it ships, but the lock comes off without labeled data"
        )
    elif worth is not None and worth <= NEAR_CHANCE and leak is not None and leak <= LEAK and document["bit_exact"]:
        level, headline = "holds", "Useless without the key, and no easier to tune back than to train anew"
    elif worth is not None and worth <= NEAR_CHANCE:
        level, headline = "partly", "Useless without the key, but tuning brings it back"
    else:
        level, headline = "partly", "Much weaker without the key, but not useless"
    if leak is None and level == "partly":
        level = "open"
        if worth is not None and worth <= NEAR_CHANCE:
            headline = "Useless without the key; what an attacker could bring back was not measured"
    if not document["bit_exact"]:
        level, headline = "weak", "Restoring does not give the original back"
    return {"level": level, "headline": headline, "sentences": sentences}


def strongest(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The attack on the tier that ships that gains most: over its baseline, or without labels over the locked model."""
    first = document["tiers"][0]["name"]
    attacks = [a for a in document["attacks"] if a["metric"] != "auc" and a["tier"] == first]
    return max(attacks, key=_leak, default=None)


def _leak(attack: Mapping[str, Any]) -> float:
    return float(attack["gained"] if attack["leaked"] is None or _unlabeled(attack) else attack["leaked"])


def _unlabeled(attack: Mapping[str, Any]) -> bool:
    """Whether an attack needs no labels: it competes with the locked model as it is, not with training from scratch."""
    budget = attack["budget"]
    return attack["metric"] != "auc" and (not budget.get("samples") or budget.get("labels") == 0)


def _worth(document: Mapping[str, Any], value: float) -> float | None:
    """How far a value lies between a blind guess (0) and the original (1); None without a known guess."""
    chance, original = document["metric"]["chance"], document["original"]["value"]
    if chance is None:
        chance = 0.0 if document["metric"]["higher_is_better"] else None
    if chance is None or chance == original:
        return None
    if document["metric"]["name"] == "perplexity":  # compare in nats
        return float(math.log(max(1e-9, chance / value)) / math.log(max(1e-9, chance / original))) if value else None
    return float((value - chance) / (original - chance))


def _share(document: Mapping[str, Any], difference: float) -> float:
    """A difference as a share of the metric's range: points of a proportion as they are."""
    if document["metric"]["proportion"]:
        return difference
    return difference / max(1e-9, abs(float(document["original"]["value"])))


def _attack_sentence(attack: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    text = f"The strongest attack ({_lower(attack['title'])}) brings it to {number(attack['recovered'], metric)}"
    if attack["leaked"] is None or _unlabeled(attack):
        needs = ", without a single label" if _unlabeled(attack) else ""
        return f"{text}{needs}: {_points(attack['gained'], metric)} than the locked model."
    named = attack["baseline_name"] or "the same budget without the locked model"
    return (
        f"{text}; {named} reaches {number(attack['baseline'], metric)}. "
        f"To that attacker the locked file is worth {_points(attack['leaked'], metric, plain_=True)}."
    )


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _points(difference: float, metric: Mapping[str, Any], plain_: bool = False) -> str:
    if metric["proportion"]:
        points = f"{abs(100 * difference):.1f} points"
        return (
            ("nothing" if difference <= 0 else points)
            if plain_
            else f"{points} {'more' if difference >= 0 else 'less'}"
        )
    text = f"{abs(difference):.3g} of {metric['name']}"
    return ("nothing" if difference <= 0 else text) if plain_ else f"{text} {'better' if difference >= 0 else 'worse'}"


def number(value: float | None, metric: Mapping[str, Any]) -> str:
    """A value of the metric as people read it."""
    if value is None:
        return "—"
    return f"{100 * value:.1f} %" if metric["proportion"] else f"{value:.4g}"


def size(count: int) -> str:
    """Bytes as people read them."""
    if count < 1000:
        return f"{count} bytes"
    value, named = float(count), "bytes"
    for unit in ("kB", "MB", "GB"):
        value, named = value / 1000, unit
        if value < 999.5:
            break
    return f"{value:.3g} {named}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"


# --- plots -----------------------------------------------------------------------------------------------------------


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


def _curve_plot(document: Mapping[str, Any]) -> str:
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


def _attack_plot(document: Mapping[str, Any]) -> str:
    """A bar for each attack, from the locked model to what it reaches; its baseline is a diamond."""
    metric = document["metric"]
    factor, label = _unit(metric)
    attacks = [a for a in document["attacks"] if a["metric"] != "auc"]
    plot = _Plot(8.6, 1.5 + 0.34 * len(attacks))
    axes = plot.axes
    for row, attack in enumerate(attacks):
        locked, recovered = factor * attack["locked"], factor * attack["recovered"]
        held = _share(document, _leak(attack)) <= LEAK
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
            patches.Patch(facecolor=ORANGE, hatch="///", edgecolor="white", label="gains more than 5 points"),
            patches.Patch(facecolor=GREEN, label="gains at most 5 points"),
            lines.Line2D([], [], marker="D", color=BLUE, linestyle="none", label="baseline, same budget"),
            lines.Line2D([], [], color=INK, linewidth=2, label="locked"),
            lines.Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 1)), label="unlocked"),
        ],
        fontsize=8.5, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0),
    )  # fmt: skip
    return plot.svg("Utility after each attack")


def _location_plot(document: Mapping[str, Any]) -> str:
    """How well each detector finds locked channels: 0.5 is blind, 1 finds all."""
    found = [a for a in document["attacks"] if a["metric"] == "auc"]
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


def _heat_map(document: Mapping[str, Any]) -> str:
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


def _bounds_plot(document: Mapping[str, Any]) -> str:
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


# --- the page --------------------------------------------------------------------------------------------------------

STYLE = """
:root{color-scheme:light;--ink:#1c2128;--soft:#57606a;--line:#d9dde2;--card:#f6f8fa;--blue:#0072B2}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1000px;margin:0 auto;padding:24px 24px 64px}
header p{color:var(--soft);margin:.1em 0 0}
h1{font-size:1.15rem;margin:0;font-weight:600}
h2{font-size:1.25rem;margin:2.2em 0 .4em;padding-top:.6em;border-top:1px solid var(--line)}
.verdict{margin:16px 0;padding:18px 22px;border-radius:10px;border-left:8px solid;background:var(--card)}
.verdict h2{border:0;margin:.15em 0 .3em;padding:0;font-size:1.6rem;line-height:1.25}
.verdict p{margin:.3em 0}
.verdict .tag{display:inline-block;font-size:.8rem;font-weight:700;letter-spacing:.04em}
.verdict .tag{padding:2px 10px;border-radius:99px;color:#fff}
.holds{border-color:#00795a}.holds .tag{background:#00795a}
.partly{border-color:#9a6700}.partly .tag{background:#9a6700}
.open{border-color:#57606a}.open .tag{background:#57606a}
.weak{border-color:#b3420e}.weak .tag{background:#b3420e}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:16px 0}
.tile{border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem;display:block;line-height:1.35}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.93rem}
th{text-align:left;font-weight:600;color:var(--soft);font-size:.85rem}
th,td{padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:middle}
td.n,th.n{text-align:right;white-space:nowrap}
.bar{display:block;height:12px;border-radius:3px;background:#e4e8ec;min-width:120px}
.bar i{display:block;height:100%;border-radius:3px;background:var(--blue)}
figure{margin:14px 0}
figure svg{width:100%;height:auto;display:block}
figcaption{color:var(--soft);font-size:.9rem}
.get{font-size:.85rem;white-space:nowrap}
a{color:var(--blue)}
.scroll{overflow-x:auto}
details{margin:10px 0}
summary{cursor:pointer;color:var(--blue)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;font-size:.93rem;margin:8px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.note{color:var(--soft);font-size:.9rem}
@media (max-width:720px){.tiles{grid-template-columns:repeat(2,1fr)}main{padding:16px}}
@media print{body{font-size:11pt}main{max-width:none;padding:0}h2{break-after:avoid}figure,table,.verdict,.tiles{break-inside:avoid}
.get{display:none}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
TAGS = {
    "holds": "✓ THE LOCK HOLDS",
    "partly": "! HOLDS IN PART",
    "weak": "✗ THE LOCK IS WEAK",
    "open": "? NOT ATTACKED",
}


def html(document: Mapping[str, Any]) -> str:
    """The page of an audit (see `audit` in run.py for the document)."""
    with need("matplotlib").rc_context(PLOT_STYLE):
        return _page(document)


def _page(document: Mapping[str, Any]) -> str:
    metric, tiers = document["metric"], document["tiers"]
    found = document["verdict"]
    best = strongest(document)
    title = f"CoreLocker audit: {document['model']['name']}"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">",
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        f"<header><h1>{escape(title)}</h1><p>{escape(_subtitle(document))}</p></header>",
        f'<section class="verdict {found["level"]}"><span class="tag">{TAGS[found["level"]]}</span>',
        f"<h2>{escape(found['headline'])}</h2>",
        *(f"<p>{escape(sentence)}</p>" for sentence in found["sentences"]),
        "</section>",
        _tiles(document, best),
        _tier_table(document),
    ]
    if document["curve"]:
        parts.append(_section("What each locked channel costs in utility", _curve_plot(document), _curve_caption(document),
                              "curve", document["curve"]))  # fmt: skip
    if any(a["metric"] != "auc" for a in document["attacks"]):
        attacks = [a for a in document["attacks"] if a["metric"] != "auc"]
        caption = (
            "Each attack with the budget in its name. An attack with labels gains what it has over the blue diamond, the same "
            "budget without the locked file; one without labels gains what it has over the locked model."
        )
        parts.append(_section("What an attacker gets back", _attack_plot(document), caption, "attacks", attacks))
        parts.append(_attack_table(attacks, metric))
    if any(a["metric"] == "auc" for a in document["attacks"]):
        caption = (
            "An attacker who knows which channels are locked can start those over. Detectors rank channels by how unusual they "
            "look: 0.5 is a blind guess, 1.0 finds all."
        )
        located = [a for a in document["attacks"] if a["metric"] == "auc"]
        parts.append(_section("Can locked channels be found?", _location_plot(document), caption, "location", located))
    if document["layers"]:
        more = len(document["layers"]) - MAX_ROWS
        caption = f"Tier “{tiers[0]['name']}”, up to 64 columns a layer." + (
            f" {more} more layers are in the data." if more > 0 else ""
        )
        parts.append(
            _section("Where the locked channels are", _heat_map(document), caption, "layers", document["layers"])
        )
    if document.get("bounds"):
        parts.append(_section("How far the lock moves the network", _bounds_plot(document), _bounds_caption(document),
                              "bounds", document["bounds"]))  # fmt: skip
    parts += [_method(document), "</main>\n</body>\n</html>\n"]
    return "\n".join(parts)


def _subtitle(document: Mapping[str, Any]) -> str:
    data, lock = document["data"], document["lock"]
    how = (
        f"{lock['criterion']} ranking, {lock['fill']} fill"
        if lock["criterion"]
        else "locked before, tiers from its key bundle"
    )
    return (
        f"{document['model']['format']}, {size(document['model']['weight_bytes'])} of weights; {how}; measured on "
        f"{data['samples']:,} samples of {data['name']}" + ("; quick audit" if document["quick"] else "")
    )


def _tiles(document: Mapping[str, Any], best: Mapping[str, Any] | None) -> str:
    metric, first = document["metric"], document["tiers"][0]
    shipped = first["utility"]
    guess = "" if metric["chance"] is None else f"; a blind guess: {number(metric['chance'], metric)}"
    tiles = [
        (number(shipped["value"], metric), f"{metric['name']} as shipped{guess}"),
        (number(document["original"]["value"], metric),
         f"{metric['name']} restored" + (", bit-identical" if document["bit_exact"] else ", NOT identical")),
        (size(first["locked_bytes"]), f"access key, {_percent(first['locked_fraction'])} of the weights"),
    ]  # fmt: skip
    if best is None:
        tiles.append(("—", "no attack was run"))
    else:
        against = (
            ""
            if best["baseline"] is None or _unlabeled(best)
            else f"; its baseline: {number(best['baseline'], metric)}"
        )
        tiles.append((number(best["recovered"], metric), f"strongest attack: {_lower(best['title'])}{against}"))
    cells = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
    return f'<section class="tiles" aria-label="Key figures">{cells}</section>'


def _tier_table(document: Mapping[str, Any]) -> str:
    metric = document["metric"]
    top = max([document["original"]["value"], *(t["utility"]["value"] for t in document["tiers"])]) or 1.0
    scale = 1.0 if metric["proportion"] else top
    rows = []
    for place, tier in enumerate(document["tiers"]):
        what = "ships" if place == 0 else "everything restored" if place == len(document["tiers"]) - 1 else ""
        value = tier["utility"]
        width = min(100.0, 100 * value["value"] / scale)
        rows.append(
            f"<tr><td><b>{escape(tier['name'])}</b> <span class='note'>{what}</span></td>"
            f"<td class=n>{number(value['value'], metric)}</td>"
            f"<td class='n note'>{number(value['low'], metric)} to {number(value['high'], metric)}</td>"
            f"<td><span class=bar><i style='width:{width:.1f}%'></i></span></td>"
            f"<td class=n>{_percent(tier['removed']) if tier['removed'] else '0'}</td>"
            f"<td class=n>{size(tier['locked_bytes']) if tier['locked_bytes'] else '—'}</td></tr>"
        )
    return (
        f"<section><div class=scroll><table><thead><tr><th>Tier<th class=n>{escape(metric['name'])}<th class=n>95 % interval<th>"
        "<th class=n>channels locked<th class=n>key still missing</thead><tbody>"
        + "".join(rows)
        + f"</tbody></table></div><p class=note>{_link('tiers', document['tiers'], 'data of this table')}&emsp;"
        f"{_link('audit', document, 'the whole audit')}</p></section>"
    )


def _attack_table(attacks: Sequence[Mapping[str, Any]], metric: Mapping[str, Any]) -> str:
    rows = []
    for attack in attacks:
        budget = ", ".join(f"{key.replace('_', ' ')} {_plain_value(value)}" for key, value in attack["budget"].items())
        leak = "—" if attack["leaked"] is None else _signed(attack["leaked"], metric)
        base = number(attack["baseline"], metric)
        rows.append(
            f"<tr><td>{escape(attack['title'])}<br><span class=note>{escape(budget)}</span></td>"
            f"<td>{escape(attack['tier'])}</td><td class=n>{number(attack['locked'], metric)}</td>"
            f"<td class=n>{number(attack['recovered'], metric)}</td><td class=n>{base}</td><td class=n>{leak}</td></tr>"
        )
    return (
        "<details><summary>All attacks as a table, with their budgets</summary><div class=scroll><table><thead><tr>"
        "<th>Attack<th>tier<th class=n>locked<th class=n>after<th class=n>baseline<th class=n>leak</thead><tbody>"
        + "".join(rows)
        + "</tbody></table></div></details>"
    )


def _plain_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _signed(value: float, metric: Mapping[str, Any]) -> str:
    return f"{100 * value:+.1f}" if metric["proportion"] else f"{value:+.3g}"


def _section(title: str, svg: str, caption: str, name: str, data: Any) -> str:
    return (
        f"<section><h2>{escape(title)}</h2><figure>{svg}"
        f"<figcaption>{escape(caption)} {_link(name, data)}</figcaption></figure></section>"
    )


def _link(name: str, data: Any, words: str = "data of this figure") -> str:
    raw = base64.b64encode(json.dumps(plain(data), indent=1).encode()).decode()
    return f'<a class=get download="{name}.json" href="data:application/json;base64,{raw}">{words} (JSON)</a>'


def _curve_caption(document: Mapping[str, Any]) -> str:
    repeats = max(p["repeats"] for p in document["curve"])
    drawn = f"; the baseline is the mean of {repeats} random draws and their range" if repeats > 1 else ""
    return (
        f"Each point is a model with that share of every layer's channels replaced ({document['lock']['fill']} fill). Shaded: "
        f"95 % intervals{drawn}. Diamonds are your tiers. Measured on {document['curve_samples']:,} samples."
    )


def _bounds_caption(document: Mapping[str, Any]) -> str:
    bounds = document["bounds"]
    constants = ", ".join(f"{k} = {v:g}" for k, v in bounds["theorems"]["constants"].items())
    ends = f" It is not complete: {bounds['reason']}." if bounds["reason"] else ""
    return (
        "Distance between the outputs of the original and the locked network in tier "
        f"“{document['tiers'][0]['name']}”. Measured on {bounds['inputs']} inputs. "
        "The certificate is a product of operator norms and holds for every input of norm up to "
        f"{bounds['radius']:.4g}.{ends} The paper's theorems 1 to 4 are in the data with their constants as parameters "
        f"({constants}); they rest on assumptions about the weights and are estimates, not guarantees."
    )


def _method(document: Mapping[str, Any]) -> str:
    lock, data, model = document["lock"], document["data"], document["model"]
    rows = {
        "Model": f"{model['name']} ({model['format']}), SHA-256 {model['sha256']}",
        "Layers": f"{model['layers']} lockable, {model['channels']:,} channels, {size(model['weight_bytes'])}",
        "Data": f"{data['name']}, {data['samples']:,} samples, SHA-256 {data['sha256']}",
        "Attacker's data": data["attacker"],
        "Metric": f"{document['metric']['name']}, "
        + ("higher is better" if document["metric"]["higher_is_better"] else "lower is better")
        + "; intervals: "
        + ("Wilson" if document["metric"]["proportion"] else "bootstrap, 1,000 resamples"),
        "Lock": ", ".join(f"{k} {v}" for k, v in lock.items() if v not in (None, "", [])),
        "Seed": str(document["seed"]),
        "Runtime": document["runtime"],
        "Versions": ", ".join(f"{k} {v}" for k, v in document["versions"].items()),
    }
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows.items() if v)
    notes = "".join(f"<li>{escape(note)}</li>" for note in document["notes"])
    return (
        "<section><h2>How this was measured</h2>"
        f"<dl>{listed}</dl>"
        + (f"<ul class=note>{notes}</ul>" if notes else "")
        + "<details><summary>Words</summary><dl>"
        "<dt>tier</dt><dd>a named level of utility; the first is what everyone gets, the last restores everything</dd>"
        "<dt>access key</dt><dd>the original bytes that the lock took out; a license delivers them encrypted</dd>"
        "<dt>channel</dt><dd>one output unit of a layer</dd>"
        "<dt>leak</dt><dd>how much better an attacker does with the locked file than with the same budget without it</dd>"
        "<dt>not promised</dt><dd>secrecy against someone who controls the process's memory after unlock</dd>"
        "</dl></details></section>"
    )
