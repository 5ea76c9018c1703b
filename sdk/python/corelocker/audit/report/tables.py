"""The tables and tiles of the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from corelocker.audit.report.document import plain
from corelocker.audit.report.verdict import needs_no_labels
from corelocker.audit.report.wording import lower_first, number, percent_of_weights, plain_value, signed, size


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
            f"<td class=n>{number(value['value'], metric)}</td>"
            f"<td class='n note'>{number(value['low'], metric)} to {number(value['high'], metric)}</td>"
            f"<td><span class=bar><i style='width:{width:.1f}%'></i></span></td>"
            f"<td class=n>{percent_of_weights(tier['removed']) if tier['removed'] else '0'}</td>"
            f"<td class=n>{size(tier['locked_bytes']) if tier['locked_bytes'] else '—'}</td></tr>"
        )
    return (
        f"<section><div class=scroll><table><thead><tr><th>Tier<th class=n>{escape(metric['name'])}<th class=n>95 % interval<th>"
        "<th class=n>channels locked<th class=n>key still missing</thead><tbody>"
        + "".join(rows)
        + f"</tbody></table></div><p class=note>{data_link('tiers', document['tiers'], 'data of this table')}&emsp;"
        f"{data_link('audit', document, 'the whole audit')}</p></section>"
    )


def attack_table(attacks: Sequence[Mapping[str, Any]], metric: Mapping[str, Any]) -> str:
    """A row for each attack with its budget."""
    rows = []
    for attack in attacks:
        budget = ", ".join(f"{key.replace('_', ' ')} {plain_value(value)}" for key, value in attack["budget"].items())
        leak = "—" if attack["leaked"] is None else signed(attack["leaked"], metric)
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


def data_link(name: str, data: Any, words: str = "data of this figure") -> str:
    """A link that downloads `data` as JSON."""
    raw = base64.b64encode(json.dumps(plain(data), indent=1).encode()).decode()
    return f'<a class=get download="{name}.json" href="data:application/json;base64,{raw}">{words} (JSON)</a>'
