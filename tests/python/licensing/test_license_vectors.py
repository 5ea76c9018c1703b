"""The vectors of tests/vectors that Kotlin and Swift run too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.bundle.strict_json import parse_object
from corelocker.licensing.device_clock import DeviceClock, Mark, Reading
from corelocker.licensing.device_key import SoftwareDeviceKey
from corelocker.licensing.errors import LicenseError
from corelocker.licensing.license import Expected, license_info, verify_license
from corelocker.licensing.tokens import TrustedKeys
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).parents[3]
LICENSES = json.loads((ROOT / "tests/vectors/license.json").read_text("utf-8"))
SEALED = json.loads((ROOT / "tests/vectors/hpke_wrap.json").read_text("utf-8"))


def device_key(jwk: dict[str, str]) -> SoftwareDeviceKey:
    scalar = int.from_bytes(jose.decode_base64url(jwk["d"]), "big")
    return SoftwareDeviceKey(ec.derive_private_key(scalar, ec.SECP256R1()))


class Memory:
    """A mark store in memory, and the clocks that a vector gives."""

    def __init__(self, clock: dict[str, Any]) -> None:
        self.mark = None if clock["mark"] is None else Mark(**clock["mark"])
        self.reading = Reading(clock["wall"], clock["ticks"], clock["boot"])

    def load(self) -> Mark | None:
        return self.mark

    def save(self, mark: Mark) -> None:
        self.mark = mark


@pytest.mark.parametrize("vector", LICENSES["vectors"], ids=lambda vector: vector["name"])
def test_license(vector: dict[str, Any]) -> None:
    key = device_key(LICENSES["device_key"])
    assert key.thumbprint == LICENSES["device"]
    memory = Memory(vector["clock"])
    given = vector["expected"]
    expected = Expected(device=key.thumbprint, **given | {"tiers": tuple(given["tiers"])})
    keys = TrustedKeys.of_jwks(LICENSES["service_keys"])
    outcome = {}
    try:
        verified = verify_license(vector["token"], keys, expected, DeviceClock(memory, lambda: memory.reading))
        outcome = {"state": verified.state, "content_key": verified.license.open(key).hex(), "expect": "ok"}
    except LicenseError as error:
        outcome = {"expect": error.code}
    assert outcome == {name: vector[name] for name in outcome}
    if "mark_after" in vector:
        assert memory.mark == Mark(**vector["mark_after"])
    elif vector["expect"] not in ("ok", "license-clock", "license-expired", "license-not-yet-valid", "license-wrap"):
        assert memory.mark is None, "the clock is asked only about licenses that are in place otherwise"


@pytest.mark.parametrize("vector", SEALED["vectors"], ids=lambda vector: vector["name"])
def test_wrapped_key(vector: dict[str, Any]) -> None:
    key = device_key(SEALED["device_key"])
    info, sealed = bytes.fromhex(vector["info"]), jose.decode_base64url(vector["wk"])
    if vector["expect"] == "ok":
        assert license_info(parse_object(vector["claims"].encode())) == info
        assert key.open(sealed, info).hex() == vector["content_key"]
    else:
        with pytest.raises(LicenseError) as raised:
            key.open(sealed, info)
        assert raised.value.code == vector["expect"]


def test_vectors_are_what_their_script_makes(tmp_path: Path) -> None:
    script = ROOT / "tools/vectors/make_license_vectors.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True)
    for name in ("license.json", "hpke_wrap.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "tests/vectors" / name).read_bytes()


def test_every_license_error_has_a_vector() -> None:
    """Issued-license errors; `license-revoked` is the service's alone."""
    seen = {vector["expect"] for vector in LICENSES["vectors"]}
    codes = {error.code for error in LicenseError.__subclasses__()}
    assert codes - seen == {"license-revoked"}
