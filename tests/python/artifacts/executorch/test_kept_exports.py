"""The exported programs that tests read are what the pinned exporters make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.models import demo_exports, exports, lowering
from support.models.exports import KEPT, is_current, kept_exports

UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # Core ML's identifiers are drawn anew


def test_they_are_current() -> None:
    assert is_current(), "the networks, their lowering or the exporters changed: run make exports"
    assert len(kept_exports()) > 30
    assert {variant for _, variant in kept_exports()} <= set(lowering.VARIANTS)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        pair if pair == ("vgg", "xnnpack") else pytest.param(*pair, marks=pytest.mark.thorough)
        for pair in kept_exports()
    ],
)
def test_the_exporter_makes_the_same(name: str, variant: str) -> None:
    made = lowering.VARIANTS[variant](name)
    kept = KEPT / f"{name}-{variant}"
    assert {f"{name}{suffix}" for suffix in made} == {file.name for file in kept.iterdir()}
    for suffix, content in made.items():
        assert UUID.sub(b"", content) == UUID.sub(b"", (kept / f"{name}{suffix}").read_bytes())


def test_the_demo_s_are_current() -> None:
    assert demo_exports.is_current(), "the demo's model or our exporter changed: run make exports"
    assert demo_exports.demo_programs() == demo_exports.KEPT


@pytest.mark.thorough
def test_our_exporter_makes_the_demo_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_exports, "digest", lambda: "0" * 16)
    monkeypatch.setattr(demo_exports, "CACHE", tmp_path)
    made = demo_exports.demo_programs()
    assert made.is_relative_to(tmp_path)
    for target in demo_exports.TARGETS:
        assert (made / target.filename).read_bytes() == (demo_exports.KEPT / target.filename).read_bytes()


def test_another_digest_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert exports.exported("vgg", "portable").is_relative_to(KEPT)
    monkeypatch.setattr(exports, "digest", lambda: "0" * 16)
    made = {"calls": 0}

    def make(name: str) -> dict[str, bytes]:
        made["calls"] += 1
        return {".pte": b"made anew"}

    monkeypatch.setitem(lowering.VARIANTS, "portable", make)
    monkeypatch.setattr(exports, "CACHE", tmp_path)
    paths = {exports.exported("vgg", "portable") for _ in range(2)}
    assert [path.read_bytes() for path in paths] == [b"made anew"]
    assert made["calls"] == 1
