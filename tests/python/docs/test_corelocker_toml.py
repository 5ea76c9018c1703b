"""docs/configuration.md, section corelocker.toml: each key that the reader knows is there, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from corelocker.errors import ConfigError
from corelocker.exporting import config
from corelocker.exporting.config import ExportTarget, parse_config
from corelocker.locking.options import DEFAULT_PRESET, DEFAULT_TIERS, LockOptions
from corelocker.locking.requirement import Requirement
from support.configuration_page import rows, section

FIELDS = {"model": config.MODEL, "lock": config.LOCK, "target": config.TARGET}
WORDS = {str: "text", int: "whole number", bool: "true or false", list: "list of"}
EXAMPLES: dict[str, object] = {
    "model.factory": "shop.models:classifier",
    "model.id": "scanner",
    "model.version": 3,
    "lock.tiers": "free=0.1,full=0",
    "lock.consumers": True,
    "lock.include_io": True,
    "lock.exclude": ["*.head"],
    "lock.seed": "s",
    "lock.source": "checkpoint.safetensors",
    "lock.input_stats": "0.5/0.2",
    "lock.require": "at-most=0.5",
    "lock.samples": "samples.npy",
    "lock.measure_seconds": 60,
    "lock.base": "base.safetensors",
    "lock.save_plan": "plan.json",
    "lock.keystore": "keys.json",
    "target.name": "scanner",
    "target.external_weights": True,
}


def documented() -> dict[str, list[str]]:
    return rows(section("corelocker.toml"), 4)


def write(folder: Path, values: dict[str, object]) -> Path:
    lines = []
    for table, heading in (("model", "[model]"), ("lock", "[lock]"), ("target", "[[target]]")):
        lines.append(heading)
        lines += [
            f"{key[len(table) + 1 :]} = {json.dumps(v)}" for key, v in values.items() if key.startswith(f"{table}.")
        ]
    path = folder / "corelocker.toml"
    path.write_text("\n".join(lines))
    return path


def required() -> dict[str, object]:
    names = [name for name, (_, default, _) in documented().items() if default.startswith("required")]
    return {name: EXAMPLES.get(name, "executorch") for name in names}


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    known = {f"{table}.{key}" for table, fields in FIELDS.items() for key in fields}
    assert documented().keys() == known
    assert len(known) > 20


def test_types_of_the_page_are_those_of_the_code() -> None:
    for name, (kind, _, _) in documented().items():
        table, key = name.split(".")
        field = FIELDS[table][key]
        if isinstance(field, tuple):
            assert set(re.findall(r"`([^`]+)`", kind)) == set(field), name
        else:
            assert WORDS[field] in kind, name


def test_the_reader_takes_each_documented_value(tmp_path: Path) -> None:
    """One file for each key and each of its choices, beside the required ones."""
    for name, (kind, _, meaning) in documented().items():
        values = [EXAMPLES[name]] if name in EXAMPLES else re.findall(r"`([^`]+)`", kind)
        assert values, name
        for value in values:
            given = required()
            if meaning.startswith("Core ML"):
                given["target.format"] = "coreml"
            parse_config(write(tmp_path, given | {name: value}))


def test_what_the_page_calls_required_is(tmp_path: Path) -> None:
    given = required()
    assert parse_config(write(tmp_path, given)).lock is not None
    for name in given:
        with pytest.raises(ConfigError, match=name.split(".")[1]):
            parse_config(write(tmp_path, {key: value for key, value in given.items() if key != name}))


def test_defaults_of_the_page_are_those_of_the_code(tmp_path: Path) -> None:
    page = {name: default for name, (_, default, _) in documented().items()}
    executorch, coreml = ExportTarget("a", "executorch"), ExportTarget("a", "coreml")
    assert page["target.backend"] == f"`{executorch.backend}`"
    assert page["target.precision"] == f"`{coreml.precision}`"
    assert all(tiers in page["lock.tiers"] for tiers in DEFAULT_TIERS.values())
    assert page["lock.preset"].startswith(f"`{DEFAULT_PRESET}`")
    assert page["lock.require"] == f"`{Requirement().kind}`"
    for name in ("lock.consumers", "lock.include_io", "target.external_weights"):
        made = executorch if name.startswith("target") else LockOptions()
        assert page[name] == json.dumps(getattr(made, name.split(".")[1])), name
