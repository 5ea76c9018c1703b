"""What to do after an audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOCK_MORE = (
    "Lock more: `corelocker lock --preset hardened` takes the signs of all weights, and `corelocker calibrate --recovered 0.1` "
    "finds the smallest lock that holds on your data."
)
LOCK_ALIKE = (
    "Lock what the earlier files lock: `corelocker lock` with the keystore that knows them takes the same channels and says what "
    "is in vain. What a published file leaves open cannot be taken back: if that is too much, train the model on before it ships."
)
SERVE_A_PART = "Or serve a part: run the last layers on your server, so that no phone ever holds the whole model."


def next_steps(
    document: Mapping[str, Any], level: str, regained: float | None, label_free: bool
) -> list[dict[str, str]]:
    """What the publisher should do now, the most important first.

    Args:
        level: of the verdict.
        regained: the share of the gap that the strongest attack regains.
        label_free: whether an attack without labels opens the lock.

    Returns [{"action", "text"}]; actions are "ship", "accept", "lock-more", "lock-alike", "serve-a-part", "measure" and
    "report-a-bug".
    """
    if not document["bit_exact"]:
        return [_step("report-a-bug", "Do not ship this file. Report it: restoring must be bit-identical.")]
    steps = []
    if level == "holds":
        steps.append(_step("ship", "Ship it. Run the audit again when the model, its data or the lock change."))
    elif level == "open":
        steps.append(
            _step("measure", "Run the audit with attacks: name the torch module with --model package.module:factory.")
        )
    elif _opened_by_earlier_files(document):
        steps.append(_step("lock-alike", LOCK_ALIKE))
    elif _is_strongest(document):
        share = (
            ""
            if regained is None
            else f" {100 * max(0.0, regained):.0f} % of the gap is what the data above buys an attacker."
        )
        steps.append(_step("accept", f"Decide whether to accept it: this is the strongest preset.{share}"))
        steps.append(_step("serve-a-part", SERVE_A_PART))
    else:
        steps.append(_step("lock-more", LOCK_MORE))
        if label_free or (regained or 0.0) > 0.5:
            steps.append(_step("serve-a-part", SERVE_A_PART))
    if document["quick"] and level != "open":
        steps.append(_step("measure", "This was a quick audit. Run it without --quick before you rely on it."))
    return steps


def _opened_by_earlier_files(document: Mapping[str, Any]) -> bool:
    """Whether files that were published earlier bring back more than a lock may lose."""
    found = [a["regained"] for a in document["attacks"] if a["name"] == "published-together"]
    return any(regained is not None and regained > 0.1 for regained in found)


def _is_strongest(document: Mapping[str, Any]) -> bool:
    """Whether the signs of everything are locked, but for layers that the preset locks by value."""
    lock = document["lock"]
    whole = lock.get("preset") == "hardened" and lock.get("tiers", "").partition(",")[0].endswith("=1")
    return bool(whole or (lock.get("unit") == "sign" and document["tiers"][0]["removed"] >= 0.99))


def step_of_attack(regained: float | None, most: float) -> str:
    """What one attack asks for, in a word or two: "accept" or "lock more"; "—" where there is no gap to regain."""
    if regained is None:
        return "—"
    return "accept" if regained <= most else "lock more"


def _step(action: str, text: str) -> dict[str, str]:
    return {"action": action, "text": text}
