"""An old copy of the database: it is noticed by every host, and goes on only when the operator says so."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from corelocker.cli.app import run
from corelocker.licensing.errors import ChallengeError
from corelocker.service.config_file import load_config
from corelocker.service.epoch import Epoch
from corelocker.service.errors import DatabaseRolledBackError, EpochFileError
from corelocker.service.messages import ChallengeRequest
from corelocker.service.run import serve
from corelocker.service.storage import Storage
from support.unlock_world import Phone, World


class Clock:
    """Seconds that only the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def storage(database_url: str):  # type: ignore[no-untyped-def]
    opened = Storage.open(database_url, migrate=True)
    yield opened
    opened.close()


def set_back(storage: Storage, by: int) -> None:
    """What restoring an older copy does to the counter."""
    with storage.transaction() as transaction:
        transaction.set_setting("epoch", str(int(storage.setting("epoch") or 0) - by))


def test_it_rises_once_a_minute_and_on_every_host(storage: Storage, tmp_path: Path) -> None:
    clock = Clock()
    hosts = [Epoch(tmp_path / name, storage, clock) for name in ("one", "two")]
    for _ in range(3):
        hosts[0].advance()
    assert (storage.setting("epoch"), json.loads((tmp_path / "one").read_text())) == ("1", {"epoch": 1})
    hosts[1].advance()
    clock.now = 61
    hosts[0].advance()
    assert (storage.setting("epoch"), json.loads((tmp_path / "one").read_text())) == ("3", {"epoch": 3})
    for host in hosts:
        host.check()


def test_an_older_copy_is_refused_until_it_is_accepted(storage: Storage, tmp_path: Path) -> None:
    clock = Clock()
    epoch = Epoch(tmp_path / "file", storage, clock)
    for clock.now in (0, 100, 200):
        epoch.advance()
    set_back(storage, 1)
    clock.now = 300
    for attempt in (epoch.check, epoch.advance, Epoch(tmp_path / "file", storage).advance):
        with pytest.raises(DatabaseRolledBackError, match="accept-rollback"):
            attempt()
    assert storage.setting("epoch") == "2"
    secret = storage.setting("secret")
    assert epoch.accept() == 1
    epoch.check()
    epoch.advance()
    assert storage.setting("epoch") == "5"
    assert storage.setting("secret") != secret
    assert storage.audit_rows(limit=1)[0].event == "accept-rollback"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'{"epoch":-1}', b'{"epoch":true}', b"{" + b" " * 2000 + b"}"]
)
def test_a_damaged_file_is_refused(storage: Storage, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(EpochFileError):
        Epoch(tmp_path / "file", storage).advance()
    assert (tmp_path / "file").read_bytes() == data


def test_a_restored_backup_does_not_start(sqlite_world: World) -> None:
    world = sqlite_world
    path = Path(world.database_url.removeprefix("sqlite:///"))
    backup = path.with_name("backup.sqlite")
    with world.start():
        pass
    with world.service() as service:
        challenge = service.challenges.issue(ChallengeRequest()).challenge
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as copy:
        source.backup(copy)
    with world.start():
        pass
    with sqlite3.connect(backup) as source, sqlite3.connect(path) as copy:
        source.backup(copy)
    config = load_config(world.config_path)
    with pytest.raises(DatabaseRolledBackError):
        serve(config)
    assert run(["service", "accept-rollback", "--config", str(world.config_path)]) == 0
    with world.start():
        pass
    with world.service() as service:
        with pytest.raises(ChallengeError):
            service.challenges.end_of(challenge, 0)
        assert Phone(world).unlock(service, world.grant())
