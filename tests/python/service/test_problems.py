"""Problem details: every error has one, it says no more than it should, and of a malformed request which member is wrong."""

from __future__ import annotations

import json
from pathlib import Path

from corelocker.errors import CoreLockerError
from corelocker.licensing.errors import DeviceLimitError, LicensingError, PurchaseUpstreamError
from corelocker.service import errors as service_errors
from corelocker.service.problems import PROBLEMS, of_error


def test_every_error_has_an_answer() -> None:
    seen, waiting = set(), [LicensingError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        raised_here = kind.__module__.startswith("corelocker.") and kind.__module__ != "corelocker.device.errors"
        if kind is LicensingError or kind in seen or not raised_here or kind.__name__ == "EntitlementUnknownError":
            continue
        seen.add(kind)
        match kind.__name__:
            case "DeviceLimitError":
                error: CoreLockerError = DeviceLimitError("secret", retry_at=5)
            case "AttestationRefusedError":
                error = service_errors.AttestationRefusedError(service_errors.Reason.KEY_ID, "secret")
            case _:
                error = kind("secret")
        found = of_error(error)
        assert found is not None, kind
        said = found.members("0" * 16)
        # What is wrong with a request is said; nothing else that an exception says.
        assert "secret" not in json.dumps(said)
        assert found.status in (400, 401, 402, 403, 404, 409, 429, 503)
        assert (found.status in (429, 503)) == (found.retry_after is not None), kind
    assert len(seen) > 40
    assert of_error(CoreLockerError("the operator's")) is None
    upstream = of_error(PurchaseUpstreamError("x", retry_after=10**9))
    assert upstream is not None
    assert upstream.retry_after == 86400


def test_what_clients_are_told_is_one_line_each() -> None:
    for code, kind in PROBLEMS.items():
        assert code == code.lower()
        assert kind.title
        assert kind.detail.endswith(".")
        assert "\n" not in kind.detail


def test_the_table_of_the_formats_page_is_this_one() -> None:
    page = (Path(__file__).parents[3] / "docs/formats.md").read_text("utf-8")
    table = page.partition("<!-- problems: checked")[2].partition("<!-- problems: end -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| `")
    ]
    again = {"challenge-used": "new", "challenge-expired": "new"}
    assert rows == [
        [
            f"`{code}`", str(kind.status), kind.detail, str(kind.retry_after or ""),
            "wait" if kind.status in (429, 503) else again.get(code, "no"),
        ]
        for code, kind in PROBLEMS.items()
    ]  # fmt: skip
