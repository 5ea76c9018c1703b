"""The page of an audit.

It loads nothing: its style, its plots (SVG) and its data (links to download) are inside, and its content security policy forbids
anything else. The same document gives the same page, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from corelocker.audit import need
from corelocker.audit.report.plots import (
    MAX_ROWS,
    PLOT_STYLE,
    attack_plot,
    bounds_plot,
    curve_plot,
    heat_map,
    location_plot,
)
from corelocker.audit.report.style import STYLE
from corelocker.audit.report.tables import attack_table, data_link, tier_table, tiles_section
from corelocker.audit.report.verdict import strongest
from corelocker.audit.report.wording import size

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
        f"<h3>What to do next</h3><ol>{''.join(_next_step(step['text']) for step in found['next_steps'])}</ol>",
        "</section>",
        tiles_section(document, best),
        tier_table(document),
    ]
    if document["curve"]:
        parts.append(_section("What each locked channel costs in utility", curve_plot(document), _curve_caption(document),
                              "curve", document["curve"]))  # fmt: skip
    if any(a["metric"] != "auc" for a in document["attacks"]):
        attacks = [a for a in document["attacks"] if a["metric"] != "auc"]
        caption = (
            "Each attack with the budget in its name. An attack with labels gains what it has over the blue diamond, the same "
            "budget without the locked file; one without labels gains what it has over the locked model."
        )
        parts.append(_section("What an attacker gets back", attack_plot(document), caption, "attacks", attacks))
        parts.append(attack_table(attacks, metric))
    if located := [a for a in document["attacks"] if a["name"].startswith("location")]:
        caption = (
            "An attacker who knows which channels are locked can start those over. Detectors rank channels by how unusual they "
            "look: 0.5 is a blind guess, 1.0 finds all."
        )
        parts.append(_section("Can locked channels be found?", location_plot(document), caption, "location", located))
    parts += [_together(a) for a in document["attacks"] if a["name"] == "published-together"]
    parts += [_membership(a) for a in document["attacks"] if a["name"] == "membership"]
    if document["layers"]:
        more = len(document["layers"]) - MAX_ROWS
        caption = f"Tier “{tiers[0]['name']}”, up to 64 columns a layer." + (
            f" {more} more layers are in the data." if more > 0 else ""
        )
        parts.append(
            _section("Where the locked channels are", heat_map(document), caption, "layers", document["layers"])
        )
    if document.get("bounds"):
        parts.append(_section("How far the lock moves the network", bounds_plot(document), _bounds_caption(document),
                              "bounds", document["bounds"]))  # fmt: skip
    parts += [_method(document), "</main>\n</body>\n</html>\n"]
    return "\n".join(parts)


def _subtitle(document: Mapping[str, Any]) -> str:
    data, lock = document["data"], document["lock"]
    how = "locked before, tiers from its key bundle"
    if lock["criterion"]:
        named = f"preset {lock['preset']}: " if lock.get("preset") else ""
        taken = "signs" if lock.get("unit") == "sign" else f"values, {lock['fill']} fill"
        how = f"{named}{lock['criterion']} ranking, {taken}"
    return (
        f"{document['model']['format']}, {size(document['model']['weight_bytes'])} of weights; {how}; measured on "
        f"{data['samples']:,} samples of {data['name']}" + ("; quick audit" if document["quick"] else "")
    )


def _together(attack: Mapping[str, Any]) -> str:
    """What earlier files and this one leave open together."""
    details = attack["details"]
    most = sorted(details["layers"].items(), key=lambda item: item[1]["as_shipped"] - item[1]["together"])[:5]
    listed = ", ".join(f"{name} {100 * layer['together']:.0f} %" for name, layer in most)
    agreed = details.get("agreement")
    words = (
        f"This file leaves {100 * details['open_as_shipped']:.1f} % of the weights open; together with "
        f"{', '.join(attack['budget']['files'])} it is {100 * details['open_together']:.1f} %. Most is added in {listed}."
    )
    if agreed:
        value, chance = (f"{100 * agreed[key]:.1f} %" for key in ("value", "chance"))
        words += f" Put together they agree with the original to {value} (chance {chance})."
    return (
        f"<section><h2>What do earlier files add?</h2><p>{escape(words)} {data_link('together', details)}</p></section>"
    )


def _membership(attack: Mapping[str, Any]) -> str:
    """What the locked file says about its training data."""
    words = "The locked file tells no more than a blind guess."
    if attack["recovered"] > 0.5 + 3 * attack["details"]["standard_error_of_a_blind_guess"]:
        words = "The locked file tells them apart: do not ship it where the training data is personal."
    return (
        f"<section><h2>Does the file say what it was trained on?</h2><p>{escape(attack['title'])}: AUC "
        f"{attack['recovered']:.2f} on the locked model, {attack['original']:.2f} on the original, 0.50 for a blind guess. "
        f"{words}</p></section>"
    )


def _next_step(text: str) -> str:
    return "<li>" + re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text)) + "</li>"


def _section(title: str, svg: str, caption: str, name: str, data: Any) -> str:
    return (
        f"<section><h2>{escape(title)}</h2><figure><div class=scroll>{svg}</div>"
        f"<figcaption>{escape(caption)} {data_link(name, data)}</figcaption></figure></section>"
    )


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
        "<dt>gap regained</dt><dd>(attack - from scratch) / (original - from scratch): 0 % means that the locked file "
        "is worth nothing to the attacker, 100 % that the lock is undone</dd>"
        "<dt>leak</dt><dd>how much better an attacker does with the locked file than with the same budget without it</dd>"
        "<dt>not promised</dt><dd>secrecy against someone who controls the process's memory after unlock</dd>"
        "</dl></details></section>"
    )
