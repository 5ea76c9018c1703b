"""What the software device believes: licenses and problems."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import tier_keys
from corelocker.bundle.strict_json import parse_object
from corelocker.device.errors import (
    NotUnlockedError,
    ServiceError,
    ServiceProtocolError,
    error_of_problem,
)
from corelocker.device.software import SoftwareDevice
from corelocker.errors import CoreLockerError
from corelocker.licensing.errors import (
    AttestationError,
    DeviceInactiveError,
    DeviceLimitError,
    LicenseBundleError,
    LicenseDeviceError,
    LicenseError,
    LicenseExpiredError,
    LicenseFormatError,
    LicenseRevokedError,
    LicenseSignatureError,
    LicenseTierError,
    LicensingError,
    PurchaseExpiredError,
    PurchaseRevokedError,
)
from corelocker.licensing.tokens import SoftwareSigner, write_token
from corelocker.service.problems import PROBLEMS, of_code
from hypothesis import given, settings
from hypothesis import strategies as st
from support.unlock_server import DAY, GRANT, Answer, Server, created, other_key, problem, signer, stored
from support.unlock_world import NOW, World


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"signer": signer()}, LicenseSignatureError),
        ({"device_key": other_key()}, LicenseDeviceError),
        ({"bundle": str(uuid.uuid4())}, LicenseBundleError),
        ({"tier": "plus"}, LicenseTierError),
        ({"issuer": "https://other.example.com"}, LicenseError),
        ({"app": "com.example.other"}, LicenseError),
        ({"environment": "production"}, LicenseError),
        ({"model_version": 2}, LicenseError),
        ({"issued_at": NOW - 100, "expires_at": NOW - 1}, LicenseExpiredError),
        ({"not_before": NOW + 10**6}, LicenseError),
    ],
)
def test_wrong_licenses_are_not_stored(
    server: Server, device: SoftwareDevice, bundle: KeyBundle, changes: dict[str, Any], error: type[LicenseError]
) -> None:
    good = device.unlock(bundle, "full", GRANT).license
    server.answers.append(lambda body: server.issue(body, **changes))
    with pytest.raises(error):
        device.unlock(bundle, "full", GRANT)
    assert device.current(bundle).license == good


@pytest.mark.parametrize(
    "changes",
    [
        {"tier": "plus"},
        {"expires_at": NOW + 3600},
        {"tier": "plus", "expires_at": NOW + 3600},
        {"expires_at": None},
    ],
    ids=str,
)
def test_a_renewal_is_the_new_truth(
    world: World, server: Server, device: SoftwareDevice, bundle: KeyBundle, changes: dict[str, Any]
) -> None:
    """Whatever it grants, more or less, takes the place of what the device holds."""
    device.unlock(bundle, "full", GRANT)
    key = tier_keys(world.content_key, bundle.id, 3)[bundle.tier(changes.get("tier", "full"))]
    server.answers.append(lambda body: server.issue(body, content_key=key, **changes))
    renewed = device.renew(bundle).license
    assert {name: getattr(renewed, name) for name in changes} == changes
    assert device.current(bundle).license == renewed
    assert len(stored(device)) == 1
    if "tier" in changes:
        with pytest.raises(CoreLockerError) as refused:
            device.restore(world.locked_path, bundle, "full")
        assert refused.value.code == "bundle-content-key"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tier": "free"}, LicenseTierError),
        ({"tier": "gold"}, LicenseTierError),
        ({"issued_at": NOW - 100, "expires_at": NOW - 1}, LicenseExpiredError),
        ({"device_key": other_key()}, LicenseDeviceError),
        ({"signer": signer()}, LicenseSignatureError),
    ],
)
def test_wrong_renewals_replace_nothing(
    server: Server, device: SoftwareDevice, bundle: KeyBundle, changes: dict[str, Any], error: type[LicenseError]
) -> None:
    good = device.unlock(bundle, "full", GRANT).license
    server.answers.append(lambda body: server.issue(body, **changes))
    with pytest.raises(error):
        device.renew(bundle)
    assert device.current(bundle).license == good


@pytest.mark.parametrize("value", [None, 5, "", "a.b.c", "x" * 20000, {"a": 1}])
def test_what_is_no_license(server: Server, device: SoftwareDevice, bundle: KeyBundle, value: object) -> None:
    server.answers.append(created({"license": value}))
    with pytest.raises(LicenseFormatError):
        device.unlock(bundle, "full", GRANT)
    assert stored(device) == []


def test_wrapped_to_another_info(server: Server, device: SoftwareDevice, bundle: KeyBundle, world: World) -> None:
    """Signed, but the content key does not open: it is found out before the license is stored."""

    def swapped(body: dict[str, Any]) -> Answer:

        claims = [
            parse_object(jose.decode_base64url(json.loads(server.issue(body)[2])["license"].split(".")[1]))
            for _ in range(2)
        ]
        token = claims[0] | {"wk": claims[1]["wk"]}
        signing = SoftwareSigner(world.keystore.signing_key)
        return created({"license": write_token(token, "corelocker-license+jwt", signing)})

    server.answers.append(swapped)
    with pytest.raises(LicenseError) as refused:
        device.unlock(bundle, "full", GRANT)
    assert refused.value.code == "license-wrap"
    assert stored(device) == []


def test_every_problem_has_a_typed_error() -> None:
    """A device knows each code that a service can send; those of HTTP itself are ServiceErrors that name it."""
    for code in PROBLEMS:
        error = error_of_problem(json.dumps(of_code(code).members("a-request")).encode())
        if type(error) is ServiceError:
            assert PROBLEMS[code].status in (404, 405, 408, 413, 415, 429, 431, 500, 503), code
            assert code in str(error)
        else:
            assert error.code == code
    unknown = {"type": "urn:corelocker:problem:brand-new", "title": "New", "detail": "It is new."}
    error = error_of_problem(json.dumps(unknown).encode())
    assert type(error) is ServiceError
    assert "brand-new" in str(error)


CODES = st.sampled_from(["device-limit", "attestation-refused", "license-revoked", "purchase-upstream", "x", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4,
)  # fmt: skip
PROBLEM_JSON = st.fixed_dictionaries(
    {"type": CODES.map("urn:corelocker:problem:".__add__) | VALUES},
    optional=dict.fromkeys(("title", "status", "detail", "retry_at", "retry_after"), VALUES),
).map(lambda members: json.dumps(members).encode())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | PROBLEM_JSON)
def test_whatever_comes_as_a_problem(data: bytes) -> None:
    try:
        found = error_of_problem(data)
    except ServiceProtocolError as error:
        found = error
    assert isinstance(found, LicensingError)
    assert len(str(found)) < 700


def test_device_limit_says_when(server: Server, device: SoftwareDevice, bundle: KeyBundle) -> None:
    members = of_code("device-limit").members("a-request") | {"retry_at": NOW + 5 * DAY}
    server.answers.append((409, {}, json.dumps(members).encode()))
    with pytest.raises(DeviceLimitError) as refused:
        device.unlock(bundle, "full", GRANT)
    assert refused.value.retry_at == NOW + 5 * DAY


@pytest.mark.parametrize(
    ("code", "error", "stays"),
    [
        ("license-revoked", LicenseRevokedError, False),
        ("purchase-revoked", PurchaseRevokedError, False),
        ("device-inactive", DeviceInactiveError, False),
        ("purchase-expired", PurchaseExpiredError, True),
        ("attestation-refused", AttestationError, True),
        ("internal-error", ServiceError, True),
    ],
)
def test_refused_renewals(
    server: Server, device: SoftwareDevice, bundle: KeyBundle, code: str, error: type[LicensingError], stays: bool
) -> None:
    device.unlock(bundle, "full", GRANT)
    server.answers.append(problem(code))
    with pytest.raises(error):
        device.renew(bundle)
    if stays:
        assert device.current(bundle).state == "valid"
    else:
        with pytest.raises(NotUnlockedError):
            device.current(bundle)
