"""The tables and tiles of the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from corelocker.audit.report.document import plain
from corelocker.audit.report.next_steps import step_of_attack
from corelocker.audit.report.verdict import REGAINED, needs_no_labels
from corelocker.audit.report.wording import (
    lower_first,
    number,
    percent_of_gap,
    percent_of_weights,
    plain_value,
    signed,
    size,
)


def tiles_section(document: Mapping[str, Any], best: Mapping[str, Any] | None) -> str:
    """The key figures at the top."""
    metric, first = document["metric"], document["tiers"][0]
    shipped = first["utility"]
    guess = "" if metric["chance"] is None else f"; a blind guess: {number(metric['chance'], metric)}"
    tiles = [
        (number(shipped["value"], metric), f"{metric['name']} as shipped{guess}"),
        (number(document["original"]["value"], metric),
         f"{metric['name']} restored" + (", bit-identical" if document["bit_exact"] else ", NOT identical")),
        (size(first["locked_bytes"]), f"access key, {percent_of_weights(first['locked_fraction'])} of the weights"),
    ]  # fmt: skip
    if best is None:
        tiles.append(("—", "no attack was run"))
    else:
        against = (
            ""
            if best["baseline"] is None or needs_no_labels(best)
            else f"; its baseline: {number(best['baseline'], metric)}"
        )
        tiles.insert(0, (percent_of_gap(best["regained"]), "of the gap regained by the strongest attack (0 is best)"))
        tiles.append((number(best["recovered"], metric), f"strongest attack: {lower_first(best['title'])}{against}"))
    cells = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
    return f'<section class="tiles" aria-label="Key figures">{cells}</section>'


def tier_table(document: Mapping[str, Any]) -> str:
    """A row for each tier: its utility and what is still missing."""
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
            + _cell(metric["name"], number(value["value"], metric))
            + _cell("95 % interval", f"{number(value['low'], metric)} to {number(value['high'], metric)}")
            + f"<td class=wide><span class=bar><i style='width:{width:.1f}%'></i></span></td>"
            + _cell("agreement", _agreed(tier, "value"))
            + _cell("chance", _agreed(tier, "chance"))
            + _cell("channels locked", percent_of_weights(tier["removed"]) if tier["removed"] else "0")
            + _cell("key still missing", size(tier["locked_bytes"]) if tier["locked_bytes"] else "—")
            + "</tr>"
        )
    return (
        "<section><div class=scroll><table class=cards><thead><tr><th>Tier"
        f"<th class=n>{escape(metric['name'])}<th class=n>95 % interval<th class=wide>"
        "<th class=n>agreement<th class=n>chance<th class=n>channels locked<th class=n>key still missing</thead><tbody>"
        + "".join(rows)
        + f"</tbody></table></div><p class=note>{escape(_agreement_note(document))}</p><p class=note>"
        f"{data_link('tiers', document['tiers'], 'data of this table')}&emsp;"
        f"{data_link('audit', document, 'the whole audit')}</p></section>"
    )


def _agreed(tier: Mapping[str, Any], key: str) -> str:
    found = tier.get("agreement")
    return "—" if found is None else f"{100 * found[key]:.1f} %"


def _agreement_note(document: Mapping[str, Any]) -> str:
    """What agreement is, and on what it was measured."""
    found = document.get("agreement")
    if found is None or found["not_measured"]:
        return "Agreement was not measured" + (f": {found['not_measured']}." if found else ".")
    return (
        "Agreement: how often a tier answers like the original, or how far its values go along with it; without a lock it is "
        "100 %. Chance is what a file that knows nothing has. "
        f"Measured on {found['samples']} {found['inputs']}, without labels."
    )


def attack_table(attacks: Sequence[Mapping[str, Any]], metric: Mapping[str, Any]) -> str:
    """A row for each attack with its budget."""
    rows = []
    for attack in attacks:
        budget = ", ".join(f"{key.replace('_', ' ')} {plain_value(value)}" for key, value in attack["budget"].items())
        leak = "—" if attack["leaked"] is None else signed(attack["leaked"], metric)
        rows.append(
            f"<tr><td>{escape(attack['title'])}<br><span class=note>{escape(budget)}</span></td>"
            + _cell("tier", attack["tier"])
            + _cell("locked", number(attack["locked"], metric))
            + _cell("after", number(attack["recovered"], metric))
            + _cell("baseline", number(attack["baseline"], metric))
            + _cell("leak", leak)
            + _cell("gap regained", percent_of_gap(attack["regained"]))
            + _cell("next step", step_of_attack(attack["regained"], REGAINED))
            + "</tr>"
        )
    return (
        "<details><summary>All attacks as a table, with their budgets</summary><div class=scroll><table class=cards><thead><tr>"
        "<th>Attack<th class=n>tier<th class=n>locked<th class=n>after<th class=n>baseline<th class=n>leak<th class=n>gap regained"
        "<th class=n>next step</thead><tbody>" + "".join(rows) + "</tbody></table></div></details>"
    )


def _cell(name: str, text: str) -> str:
    """A cell that names its column where the page is narrow."""
    return f'<td class=n data-label="{escape(name, quote=True)}">{escape(text)}</td>'


def data_link(name: str, data: Any, words: str = "data of this figure") -> str:
    """A link that downloads `data` as JSON."""
    raw = base64.b64encode(json.dumps(plain(data), indent=1).encode()).decode()
    return f'<a class=get download="{name}.json" href="data:application/json;base64,{raw}">{words} (JSON)</a>'
