"""What the measurements of an audit mean, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from corelocker.audit.report.next_steps import next_steps
from corelocker.audit.report.wording import lower_first, number, percent_of_gap, percent_of_weights, points, size
from corelocker.audit.results import AttackResult

REGAINED = 0.1  # share of the gap that an attack may regain; a single training run varies by about as much
LEAK = 0.05  # of the metric's range, where there is no gap
SHARE = 0.1  # of the training data: what the attacker of the headline has
NEAR_CHANCE = 0.05  # of the way from a blind guess to the original


def verdict(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the measurements mean, in words.

    Returns {"level": "holds" | "partly" | "weak" | "open", "headline", "sentences", "regained", "next_steps"}. "holds": as
    shipped the model is near a blind guess, and the strongest attack regains at most a tenth of the gap between training from
    scratch and the original. "weak": as shipped the model keeps more than half of its worth, or an attack without labels
    brings that much back. "open": not attacked.
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
        f"{percent_of_weights(first['locked_fraction'])} of the weights.",
    ]
    held = None if best is None else withstood(document, best)
    if best is not None:
        sentences.append(_attack_sentence(best, metric))
    else:
        sentences.append("No attack was run, so this says nothing about what an attacker could bring back.")
    if not document["bit_exact"]:
        sentences.append("The last tier is NOT bit-identical to the original.")
    free = max(
        (_worth(document, a["recovered"]) or 0.0 for a in document["attacks"] if needs_no_labels(a)), default=0.0
    )
    if worth is not None and (worth > 0.5 or free > 0.5):
        level = "weak"
        headline = (
            "As shipped, the model still works"
            if worth > 0.5
            else f"{'Useless' if worth <= NEAR_CHANCE else 'Weaker'} as it ships, but the lock comes off without labeled data"
        )
    elif worth is not None and worth <= NEAR_CHANCE and held and document["bit_exact"]:
        level, headline = "holds", "Useless without the key, and no easier to tune back than to train anew"
    elif worth is not None and worth <= NEAR_CHANCE:
        level, headline = "partly", "Useless without the key, but tuning brings it back"
    else:
        level, headline = "partly", "Much weaker without the key, but not useless"
    if held is None and level == "partly":
        level = "open"
        if worth is not None and worth <= NEAR_CHANCE:
            headline = "Useless without the key; what an attacker could bring back was not measured"
    if not document["bit_exact"]:
        level, headline = "weak", "Restoring does not give the original back"
    regained = None if best is None else best["regained"]
    return {
        "level": level, "headline": headline, "sentences": sentences, "regained": regained,
        "next_steps": next_steps(document, level, regained, free > 0.5),
    }  # fmt: skip


def strongest(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The attack on the tier that ships that regains most, of those with a tenth of the training data or without labels.

    Where no attack had a tenth, those with any share count.
    """
    first = document["tiers"][0]["name"]
    attacks = [a for a in document["attacks"] if a["metric"] != "auc" and a["tier"] == first]
    usual = [a for a in attacks if needs_no_labels(a) or a["budget"].get("data", SHARE) == SHARE]
    return max(usual or attacks, key=lambda a: _severity(document, a), default=None)


def withstood(document: Mapping[str, Any], attack: Mapping[str, Any]) -> bool:
    """Whether the lock holds against an attack."""
    if attack["regained"] is None:
        return share_of_range(document, leak_of(attack)) <= LEAK
    return bool(attack["regained"] <= REGAINED)


def _severity(document: Mapping[str, Any], attack: Mapping[str, Any]) -> float:
    """How bad an attack is: 1 is as much as a lock may lose."""
    if attack["regained"] is None:
        return share_of_range(document, leak_of(attack)) / LEAK
    return float(attack["regained"]) / REGAINED


def leak_of(attack: Mapping[str, Any]) -> float:
    """What an attack gained, in the metric's unit: over its baseline, or without labels over the locked model."""
    return float(attack["gained"] if attack["leaked"] is None or needs_no_labels(attack) else attack["leaked"])


def needs_no_labels(attack: Mapping[str, Any]) -> bool:
    """`AttackResult.needs_no_labels` of an attack in the document."""
    return AttackResult.from_json(dict(attack)).needs_no_labels


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


def share_of_range(document: Mapping[str, Any], difference: float) -> float:
    """A difference as a share of the metric's range: points of a proportion as they are."""
    if document["metric"]["proportion"]:
        return difference
    return difference / max(1e-9, abs(float(document["original"]["value"])))


def _attack_sentence(attack: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    text = f"The strongest attack ({lower_first(attack['title'])}) brings it to {number(attack['recovered'], metric)}"
    if attack["leaked"] is None or needs_no_labels(attack):
        needs = ", without a single label" if needs_no_labels(attack) else ""
        return f"{text}{needs}: {points(attack['gained'], metric)} than the locked model."
    named = attack["baseline_name"] or "the same budget without the locked model"
    share = (
        f"That is {percent_of_gap(attack['regained'])} of the gap to the original"
        if attack["regained"] is not None
        else "There is hardly a gap to the original"
    )
    return (
        f"{text}; {named} reaches {number(attack['baseline'], metric)}. {share}: to that attacker the locked file is worth "
        f"{points(attack['leaked'], metric, as_worth=True)}."
    )
