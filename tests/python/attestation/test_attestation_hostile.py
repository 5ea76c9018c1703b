"""Hostile evidence: whatever the bytes, a verdict comes out, quickly, and never a good one by accident."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from corelocker.attestation.certificates import parse_certificate
from corelocker.attestation.key_description import parse_key_description
from corelocker.attestation.verdict import Reason, Refusal
from corelocker.licensing.evidence import DevelopmentEvidence
from hypothesis import given, settings
from hypothesis import strategies as st
from support.android_case import AndroidCase
from support.apple_cases import AppleCase
from support.attestation_cases import ANDROID_CASES, APPLE_CASES, DEVELOPMENT_CASES
from support.attestation_forge import android_chain, assertion_object, attestation_object, described, remote
from support.certificate_writer import octets, tlv
from support.counting import calls
from support.development_cases import DevelopmentCase

ANDROID: AndroidCase = ANDROID_CASES[0]
ATTESTATION: AppleCase = APPLE_CASES[0]
ASSERTION: AppleCase = next(case for case in APPLE_CASES if case.name == "assertion")
DEVELOPMENT: DevelopmentCase = DEVELOPMENT_CASES[0]


def _flips(data: bytes) -> list[bytes]:
    """The data with one bit turned in each byte in turn."""
    return [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))]


@pytest.mark.parametrize("chain", [android_chain()[:-1], android_chain(remote())[:-1]], ids=["factory", "remote"])
def test_no_bit_of_a_chain_may_turn(chain: tuple[bytes, ...]) -> None:
    """The root is left out: its key is the anchor and nothing else in it counts."""
    assert replace(ANDROID, chain=chain).verdict().accepted
    for index, certificate in enumerate(chain):
        for bent in _flips(certificate):
            verdict = replace(ANDROID, chain=(*chain[:index], bent, *chain[index + 1 :])).verdict()
            assert not verdict.accepted


def test_no_bit_of_an_attestation_may_turn() -> None:
    """Without a receipt, which Apple checks and we do not."""
    attestation = attestation_object(receipt=b"")
    assert replace(ATTESTATION, attestation=attestation).verdict().accepted
    for bent in _flips(attestation):
        assert not replace(ATTESTATION, attestation=bent).verdict().accepted


def test_no_bit_of_an_assertion_may_turn() -> None:
    for bent in _flips(assertion_object()):
        assert not replace(ASSERTION, assertion=bent).verdict().accepted


def test_no_bit_of_a_development_attestation_may_turn() -> None:
    evidence = DEVELOPMENT.evidence
    for certificate in _flips(evidence.certificate):
        assert not replace(DEVELOPMENT, evidence=replace(evidence, certificate=certificate)).verdict().accepted
    for signature in _flips(evidence.signature):
        assert not replace(DEVELOPMENT, evidence=replace(evidence, signature=signature)).verdict().accepted


def test_every_truncation_is_malformed() -> None:
    chain = android_chain()
    for size in range(len(chain[0])):
        assert replace(ANDROID, chain=(chain[0][:size], *chain[1:])).verdict().reason is Reason.MALFORMED
    attestation, assertion = attestation_object(), assertion_object()
    for size in range(len(attestation)):
        assert replace(ATTESTATION, attestation=attestation[:size]).verdict().reason is Reason.MALFORMED
    for size in range(len(assertion)):
        assert replace(ASSERTION, assertion=assertion[:size]).verdict().reason is Reason.MALFORMED


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), index=st.integers(0, 3))
def test_noise_gives_a_verdict(data: bytes, index: int) -> None:
    chain = android_chain()
    assert not replace(ANDROID, chain=(*chain[:index], data, *chain[index + 1 :])).verdict().accepted
    assert not replace(ATTESTATION, attestation=data).verdict().accepted
    assert not replace(ASSERTION, assertion=data).verdict().accepted
    assert not replace(DEVELOPMENT, evidence=DevelopmentEvidence(data, data)).verdict().accepted


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.integers(0, 2000),
)
def test_edited_readers_refuse_with_a_reason(edits: list[tuple[int, int]], cut: int) -> None:
    """The readers alone, behind the signatures: a key description and a certificate with bytes replaced."""
    leaf = bytearray(android_chain()[0])
    for at, value in edits:
        leaf[at % len(leaf)] = value
    reason = None
    try:
        for extension in parse_certificate(bytes(leaf[: cut or None])).extensions.values():
            parse_key_description(extension.value)
    except Refusal as refusal:
        reason = refusal.reason
    assert reason in (None, Reason.MALFORMED, Reason.UNSUPPORTED_ALGORITHM)


@pytest.mark.parametrize(
    "case",
    [
        replace(ANDROID, chain=described(hardware={9999: tlv(0x30, b"\x30\x80" * 3000)})),
        replace(ANDROID, chain=described(software={9999: octets(bytes(10_000))})),
        replace(ANDROID, chain=(b"\x30\x84\x7f\xff\xff\xff" + bytes(1000),) * 6),
        replace(ATTESTATION, attestation=b"\x81" * 60_000),
        replace(ATTESTATION, attestation=b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff" + b"\x00" * 60_000),
        replace(
            ATTESTATION, attestation=b"\xb9\x7f\xff" + b"".join(b"\x19" + i.to_bytes(2) + b"\0" for i in range(15_000))
        ),
        replace(ATTESTATION, attestation=b"\x9a\x00\x00\xea\x60" + b"\x80" * 60_000),
        replace(ASSERTION, assertion=b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(60_000)),
    ],
    ids=["deep", "long", "huge-length", "deep-cbor", "huge-array", "many-keys", "many-arrays", "huge-string"],
)
def test_costly_shapes_cost_little(case: AndroidCase | AppleCase) -> None:
    tracemalloc.start()
    effort = calls(case.verdict)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert effort < 500_000
    assert peak < 16 << 20
