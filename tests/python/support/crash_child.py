"""Runs one request after another in a forked process that kills itself (SIGKILL) at a chosen step.

    python crash_child.py service.toml

Reads a JSON line for each request, {"at": step, "now": the time, "license_id": null or that of a renewal, "body": the request}, and
writes a line: {"killed": bool, "steps": steps that were passed, "license": the answer's license id or null}.
A step lies before and after every statement, every commit and every use of a key, so between any two of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from corelocker.licensing.tokens import Signer
from corelocker.service import database
from corelocker.service.config_file import load_config
from corelocker.service.core import UnlockService
from corelocker.service.database import Session, Statement
from corelocker.service.keys import KeyProvider, open_keys
from corelocker.service.messages import RenewRequest, UnlockRequest
from corelocker.service.storage import Storage, Transaction


class Steps:
    """Counts steps once it is armed, and dies at number `at`."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0
        self.armed = False

    def __call__(self, *_: object, **__: object) -> None:
        if not self.armed:
            return
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1


class SteppingSigner:
    """A signer with a step on either side."""

    def __init__(self, signer: Signer, step: Steps) -> None:
        self._signer = signer
        self._step = step
        self.public_key = signer.public_key

    def sign(self, data: bytes) -> bytes:
        self._step()
        signature = self._signer.sign(data)
        self._step()
        return signature


class SteppingKeys:
    """Keys with a step on either side of each use."""

    def __init__(self, keys: KeyProvider, step: Steps) -> None:
        self._keys = keys
        self._step = step
        self.signer = SteppingSigner(keys.signer, step)
        self.bundles = keys.bundles

    def content_key(self, bundle: str, tier: str) -> bytes:
        self._step()
        key = self._keys.content_key(bundle, tier)
        self._step()
        return key

    def check(self) -> None:
        self._keys.check()


def stepping_storage(step: Steps) -> type[Storage]:
    """Storage with a step before each transaction, before its commit and after it."""

    class SteppingStorage(Storage):
        @contextmanager
        def transaction(self, *, durable: bool = True) -> Iterator[Transaction]:
            step()
            with super().transaction(durable=durable) as transaction:
                yield transaction
                step()
            step()

    return SteppingStorage


def step_around_statements(step: Steps) -> None:
    """A step on either side of each statement that the database executes."""

    class SteppingSession(Session):
        def execute(self, statement: Statement, parameters: Mapping[str, Any]) -> int:
            step()
            count = super().execute(statement, parameters)
            step()
            return count

    database.Session = SteppingSession  # type: ignore[misc]


def run(config_path: str, at: int, now: float, license_id: str | None, body: dict[str, Any]) -> dict[str, Any]:
    config = load_config(config_path)
    step = Steps(at)
    storage = stepping_storage(step).open(config.database_url)
    step_around_statements(step)
    service = UnlockService(config, storage, SteppingKeys(open_keys(config.keys), step), clock=lambda: now)
    # What the first request of a process does once is not what is tested here.
    storage.secret()
    step.armed = True
    if license_id is None:
        issued = service.decisions.unlock(UnlockRequest.from_json(body))
    else:
        issued = service.decisions.renew(license_id, RenewRequest.from_json(body))
    step.armed = False
    return {"killed": False, "steps": step.passed, "license": issued.license_id}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            result = run(sys.argv[1], **request)
            os.write(writer, json.dumps(result).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            print(json.dumps({"killed": True}), flush=True)
        elif status == 0:
            print(data.decode(), flush=True)
        else:
            sys.exit("the request failed in another way than by being killed")


if __name__ == "__main__":
    main()
