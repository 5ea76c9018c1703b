"""What `check-config` tries out: each part once where it works and once where it does not, in bounded time."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from corelocker.cli.app import run
from corelocker.service.checks import check_config
from corelocker.service.config import ServiceConfig
from corelocker.service.config_file import load_config
from corelocker.service.trial import try_out
from support.full_service import FullService, full_service


@pytest.fixture
def world(tmp_path: Path, database_url: str):  # type: ignore[no-untyped-def]
    with full_service(tmp_path, database_url) as made:
        yield made


def loaded(world: FullService, old: str = "", new: str = "") -> ServiceConfig:
    file = world.folder / "service.toml"
    file.write_text(file.read_text().replace(old, new))
    return load_config(file)


def test_everything_works(world: FullService) -> None:
    found = try_out(loaded(world))
    clock = [("ok", "clock")] if world.database_url.startswith("postgresql") else []
    assert sorted((each.level, each.code) for each in found) == [
        *clock,
        ("ok", "database"),
        ("ok", "store"),
        ("ok", "store"),
    ]


def test_a_clock_that_is_wrong(world: FullService) -> None:
    found = try_out(loaded(world), clock=lambda: time.time() + 3600)
    wrong = [each for each in found if each.code == "clock"]
    assert len(wrong) == 3
    for each in wrong:
        assert each.level == "warning"
        assert "clock: +360" in each.message or "clock: +359" in each.message
        assert each.hint


def test_a_store_that_does_not_answer(world: FullService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = loaded(world, f"{world.play_url}/certs", f"http://127.0.0.1:{silent.getsockname()[1]}/certs")
        started = time.monotonic()
        (store,) = (each for each in try_out(config) if each.code == "store-unreachable")
        assert time.monotonic() - started < 15
    assert store.level == "warning"
    assert "keys" in store.message
    assert "firewall" in store.hint


def test_a_revocation_list_that_does_not_come(world: FullService) -> None:
    config = loaded(world, 'revocation_list = "revocation.json"', f'revocation_url = "{world.play_url}/nothing"')
    (found,) = (each for each in try_out(config) if each.code == "revocation-list")
    assert found.level == "warning"


@pytest.mark.parametrize("kind", ["unreachable", "silent", "empty"])
def test_a_database_that_cannot_be_used(world: FullService, kind: str, tmp_path: Path) -> None:
    config = loaded(world)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if kind == "silent" else 1
        (tmp_path / "empty.sqlite").touch()
        url = f"sqlite:///{tmp_path}/empty.sqlite" if kind == "empty" else f"postgresql+psycopg://u@127.0.0.1:{port}/x"
        started = time.monotonic()
        first = try_out(replace(config, database_url=url))[0]
        assert time.monotonic() - started < 15
    assert (first.level, first.code) == ("error", "database")
    assert first.hint


def test_the_command_says_one_line_each(
    world: FullService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.folder / "service.toml"
    loaded(world, f'database_url = "{world.database_url}"', 'database_url = "postgresql://nobody@127.0.0.1:1/x"')
    assert run(["service", "check-config", "--config", str(file)]) == 1
    printed = capsys.readouterr().out
    assert "error: database: " in printed
    assert "ok: secrets: each file can be read, and by its owner alone [secret-files]" in printed
    assert (
        f"ok: keys: they open; {world.keystore.publisher} signs licenses; bundles with content keys: 2 [keys]"
        in printed
    )
    assert run(["service", "check-config", "--config", str(file), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["ok"]
    assert "database" in {each["code"] for each in document["trials"]}


def test_a_secret_that_cannot_be_read(world: FullService) -> None:
    config = loaded(world)
    (world.folder / "folder").mkdir(mode=0o700)
    config = replace(config, keys=replace(config.keys, passphrase_file=world.folder / "folder"))
    assert "secret-file" in {each.code for each in check_config(config) if each.level == "error"}
