"""A request and a file can be followed from where they come in to where they end through few files, in call order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import corelocker
import pytest
from corelocker.artifacts.weights import WeightTensor
from corelocker.locking.layout import LockedRuns
from corelocker.service.storage import Transaction
from support.http_server import Server, serving
from support.models import exports
from support.unlock_world import Phone, World

PACKAGE = Path(corelocker.__file__).parent


def files_to_here() -> list[str]:
    """The package's files on the stack of the caller's caller, outermost first."""
    found: list[str] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE) and path.relative_to(PACKAGE).as_posix() not in found[-1:]:
            found.append(path.relative_to(PACKAGE).as_posix())
        frame = frame.f_back
    return found[::-1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(World(tmp_path, f"sqlite:///{tmp_path}/unlock.sqlite")) as server:
        yield server


def test_an_unlock_goes_from_route_to_decision_to_storage(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def add_license(transaction: Transaction, stored: object) -> None:
        seen.append(files_to_here())
        keep(transaction, stored)  # type: ignore[arg-type]

    keep = Transaction.add_license
    monkeypatch.setattr(Transaction, "add_license", add_license)
    assert server.unlock(Phone(server.world), server.world.grant("p")).status_code == 201
    # The worker thread begins in workers.py and calls what the route gave it; add_license stands in storage.py.
    assert seen == [["service/workers.py", "service/http.py", "service/decisions.py"]]


def test_a_pte_goes_from_lock_to_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    written: list[list[str]] = []
    init, apply = WeightTensor.__init__, LockedRuns.apply

    def presented(tensor: WeightTensor, *rest: object, **members: object) -> None:
        read.append(files_to_here())
        init(tensor, *rest, **members)  # type: ignore[arg-type]

    def put(runs: LockedRuns, start: int, block: object, state: int) -> None:
        written.append(files_to_here())
        apply(runs, start, block, state)  # type: ignore[arg-type]

    monkeypatch.setattr(WeightTensor, "__init__", presented)
    monkeypatch.setattr(LockedRuns, "apply", put)
    keystore = corelocker.Keystore.create(tmp_path / "keys.json", b"p")
    options = corelocker.LockOptions(tiers=corelocker.parse_tiers("free=0.3,full=0"))
    corelocker.lock(
        [exports.exported("resnet", "xnnpack")], tmp_path / "dist",
        model_id="m", model_version=1, keystore=keystore, options=options, require="none",
    )  # fmt: skip
    assert read
    assert {tuple(path) for path in read} == {
        ("locking/lock.py", "artifacts/detect.py", "artifacts/executorch/pte.py", "artifacts/layers.py")
    }
    to_the_file = {tuple(path) for path in written if path[0] == "locking/lock.py"}
    assert to_the_file == {
        ("locking/lock.py", "locking/publish.py", "locking/writing.py", "locking/locked.py", "locking/layout.py")
    }
