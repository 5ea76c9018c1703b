"""Every check of the verifiers: a valid proof with one thing bent, and the reason that must come out.

Run twice: on the cases as they are made, and on the committed vectors, as another implementation would read them.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from corelocker.attestation.verdict import Reason
from corelocker.licensing.evidence import evidence_from_json
from support.android_case import AndroidCase
from support.apple_cases import AppleCase
from support.attestation_cases import ANDROID_CASES, APPLE_CASES, DEVELOPMENT_CASES
from support.development_cases import DevelopmentCase

REPOSITORY = Path(__file__).resolve().parents[3]
MADE = REPOSITORY / "tests/vectors/attestation/made"
CASES = {
    "android_key.json": (ANDROID_CASES, AndroidCase),
    "apple_app_attest.json": (APPLE_CASES, AppleCase),
    "development.json": (DEVELOPMENT_CASES, DevelopmentCase),
}


def _check(case: AndroidCase | AppleCase | DevelopmentCase) -> None:
    verdict = case.verdict()
    assert verdict.reason is case.reason, verdict.detail
    assert verdict.accepted is (case.reason is Reason.OK)
    assert (verdict.claims is not None) is verdict.accepted
    assert verdict.detail


@pytest.mark.parametrize("case", ANDROID_CASES, ids=lambda case: case.name)
def test_android_key(case: AndroidCase) -> None:
    _check(case)


@pytest.mark.parametrize("case", APPLE_CASES, ids=lambda case: case.name)
def test_apple_app_attest(case: AppleCase) -> None:
    _check(case)


@pytest.mark.parametrize("case", DEVELOPMENT_CASES, ids=lambda case: case.name)
def test_development(case: DevelopmentCase) -> None:
    _check(case)


@pytest.mark.parametrize("file", CASES)
def test_committed_vectors(file: str) -> None:
    cases, kind = CASES[file]
    vectors = json.loads((MADE / file).read_text(encoding="utf-8"))
    for vector in vectors:
        _check(kind.from_json(vector, evidence_from_json(vector["attestation"])))
    # The shape of the JSON refuses these before a verifier sees them.
    left_out = {case.name for case in cases} - {vector["name"] for vector in vectors}
    assert left_out <= {"too-large", "chain-of-7", "assertion-too-large"}


def test_committed_vectors_are_current() -> None:
    for name, text in _generator().files().items():
        assert (MADE / name).read_text(encoding="utf-8") == text, (
            f"run tools/vectors/make_attestation_vectors.py ({name})"
        )


def test_names_are_unique() -> None:
    for cases, _ in CASES.values():
        assert len({case.name for case in cases}) == len(cases)


def _generator() -> Any:
    spec = importlib.util.spec_from_file_location(
        "make_attestation_vectors", REPOSITORY / "tools/vectors/make_attestation_vectors.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
