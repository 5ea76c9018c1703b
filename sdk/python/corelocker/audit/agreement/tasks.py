"""What the measuring process is asked: how far every tier of locked files agrees with the originals, and the smallest lock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.artifacts.detect import open_artifact
from corelocker.audit.agreement.examined import SECONDS, Examined
from corelocker.audit.agreement.runners import CannotRunError
from corelocker.audit.agreement.score import Agreement
from corelocker.audit.agreement.smallest import EACH, KINDS, find_smallest
from corelocker.audit.agreement.time_limit import OutOfTimeError, TimeLimit
from corelocker.audit.tier_bytes import State, original_state
from corelocker.bundle.patch import Patch
from corelocker.errors import CoreLockerError
from corelocker.locking.base_states import Guess, Guessed, guessed_state
from corelocker.locking.criteria.synthetic import InputStats

Progress = Callable[[int, int], None]


def measure(request: dict[str, Any], patches: bytes, limit: TimeLimit, progress: Progress) -> list[dict[str, Any]]:
    """For each artifact {"inputs", "samples", "tiers": [agreement, ...]} or {"reason"}; the last tier is compared byte by byte.

    Where the request says "broad", on several kinds of inputs, and that counts on which most is left. Where the time ends before
    all tiers were compared, {"out_of_time": True} stands beside those that were.
    """
    found: list[dict[str, Any]] = []
    rest = memoryview(patches)
    total = sum(len(entry["patches"]) + 1 for entry in request["artifacts"])
    done = 0
    for place, entry in enumerate(request["artifacts"]):
        states, rest = _states(entry, rest)
        kinds, part = KINDS if request["broad"] else 1, limit.part(1 / (len(request["artifacts"]) - place))
        seen: dict[str, Any] = {}
        try:
            examined = _examined(request, entry, kinds, part, len(states) - 1)
            done += 1
            progress(done, total)
            original = original_state(examined.artifact)
            if not all(np.array_equal(states[-1][name], data) for name, data in original.items()):
                raise CannotRunError("the last tier does not restore the original")
            rows: list[dict[str, Any]] = []
            seen = {"inputs": examined.inputs, "samples": examined.count, "tiers": rows}
            for state in states[:-1]:
                rows.append(_row(examined.compare(state)))
                done += 1
                progress(done, total)
            found.append(seen)
        except OutOfTimeError:
            found.append(seen | {"out_of_time": True})
        except (CannotRunError, CoreLockerError) as error:
            found.append({"reason": str(error)})
    return found


def smallest(request: dict[str, Any], patches: bytes, limit: TimeLimit, progress: Progress) -> dict[str, Any]:
    """The locks of `find_smallest` for the first artifact that runs here, each grown from the one before: {"artifact", "locks"},
    {"reason"}, or {"out_of_time"}."""
    reasons = []
    for index, entry in enumerate(request["artifacts"]):
        try:
            examined = _examined(request, entry, KINDS, limit)
            locks = find_smallest(examined, request["units"], tuple(request["exclude"]), progress)
            return {"artifact": index, "locks": locks}
        except OutOfTimeError:
            return {"out_of_time": True}
        except (CannotRunError, CoreLockerError) as error:
            reasons.append(f"{Path(entry['path']).name}: {error}")
    return {"reason": "; ".join(reasons)}


def beside_base(request: dict[str, Any], patches: bytes, limit: TimeLimit, progress: Progress) -> list[dict[str, Any]]:
    """For each artifact {"states": {guess: agreement}} with what a public base says of what is locked, {"reason"}, or
    {"out_of_time"}."""
    base = {tensor.name: tensor for tensor in open_artifact(Path(request["base"])).tensors}
    guesses = get_args(Guess)
    found: list[dict[str, Any]] = []
    for done, entry in enumerate(request["artifacts"]):
        progress(done, len(request["artifacts"]))
        try:
            part = limit.part(1 / (len(request["artifacts"]) - done))
            examined = _examined(request, entry, 1, part, len(guesses))
            layers = _guessed(examined.artifact, entry["layers"], base)
            rows = {g: _row(examined.compare(guessed_state(examined.artifact, layers, g))) for g in guesses}
            found.append({"states": rows})
        except OutOfTimeError:
            found.append({"out_of_time": True})
        except (CannotRunError, CoreLockerError) as error:
            found.append({"reason": str(error)})
    return found


def _guessed(
    artifact: Artifact, layers: dict[str, dict[str, Any]], base: dict[str, WeightTensor]
) -> dict[str, Guessed]:
    found = {}
    for tensor in artifact.tensors:
        if tensor.name in layers:
            layer = layers[tensor.name]
            locked = np.zeros(tensor.channels, np.bool_)
            locked[layer["locked"]] = True
            found[tensor.name] = Guessed(base[layer["base"]], locked, layer["by_sign"])
    return found


def _examined(
    request: dict[str, Any], entry: dict[str, Any], kinds: int, limit: TimeLimit, states: int = 1
) -> Examined:
    stats = request["input_stats"]
    return Examined(
        _artifact(entry),
        factory=request["model"],
        samples=Path(request["samples"]) if request["samples"] else None,
        stats=InputStats.parse(stats) if stats else None,
        seconds=SECONDS if kinds == 1 else EACH,
        kinds=kinds,
        limit=limit,
        states=states,
    )


def _artifact(entry: dict[str, Any]) -> Artifact:
    return open_artifact(Path(entry["path"]), [Path(path) for path in entry["data"]])


def _states(entry: dict[str, Any], patches: memoryview) -> tuple[list[State], memoryview]:
    """The files in the state of every tier, and what is left of the patches."""
    state = {name: np.fromfile(path, np.uint8) for name, path in entry["locked"].items()}
    states: list[State] = [state]
    for tier in entry["patches"]:
        state = {name: data.copy() for name, data in state.items()}
        for name, length in tier:
            Patch.parse(patches[:length], state[name].size).apply(state[name].data)
            patches = patches[length:]
        states.append(state)
    return states, patches


def _row(agreement: Agreement) -> dict[str, Any]:
    return {
        "kind": agreement.kind,
        "value": agreement.value,
        "chance": agreement.chance,
        "error": agreement.error,
        "along": agreement.along,
        "passed_on": agreement.passed_on,
        "most_along": agreement.most_along,
    }
