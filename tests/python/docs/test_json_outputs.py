"""docs/configuration.md, section on `--json`: what the commands print is there, and nothing else.

`export`, `audit` and `calibrate` take long. The tests that run them anyway compare their documents with the page
(`support.json_outputs.assert_documented`).
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from corelocker.cli.app import app, run
from support.configuration_page import ROOT
from support.json_outputs import assert_documented, commands, documented_paths
from support.models.exports import exported
from support.models.lowering import built
from support.small_artifacts import trained_like, write_safetensors
from support.unlock_world import ServiceProcess, free_port

PACKAGE = ROOT / "tests/data/coreml/unified_palette_4bit.mlpackage"
COMPARED_ELSEWHERE = {"export", "audit", "calibrate", "calibrate --recovered"}


class Commands:
    """Runs commands in this process, and keeps what they printed by the heading on the page."""

    def __init__(self) -> None:
        self.printed: dict[str, list[Any]] = defaultdict(list)

    def __call__(self, heading: str, *options: str, code: int = 0) -> Any:
        """Run the command of the heading, whose words in capitals are not part of it."""
        words = [word for word in heading.split() if word.islower()]
        return self.run(heading, [*words, *options], code)

    def run(self, heading: str, arguments: list[str], code: int) -> Any:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            found = run([*arguments, "--json"])
        assert found == code, (arguments, out.getvalue())
        document = json.loads(out.getvalue())
        self.printed[heading].append(document)
        return document


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Any]]]:
    """What each command printed, in one folder: lock, set up a service, unlock, administer."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("PASSPHRASE", "PASSPHRASE_FILE", "KEYSTORE", "SERVICE", "SERVICE_PASSPHRASE"):
            patch.delenv(f"CORELOCKER_{name}", raising=False)
        call = Commands()
        _files(call, folder)
        _service(call, folder)
        yield call.printed


def _files(call: Commands, folder: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"layer.{i}.weight": trained_like(rng, 24, 24) for i in range(4)}
    write_safetensors(folder / "net.safetensors", tensors)
    shutil.copyfile(exported("resnet", "xnnpack"), folder / "resnet.pte")
    shutil.copyfile(exported("gated", "int4"), folder / "gated.pte")
    package = shutil.copytree(PACKAGE, folder / PACKAGE.name)
    (package / "executorch_debug_handle_mapping.json").touch()  # what a locked copy goes without
    call("keystore init", "keys.json", "--kek-file", "kek")
    models = ("resnet.pte", "gated.pte", "net.safetensors", PACKAGE.name)
    options = (
        "--model-id",
        "m",
        "--model-version",
        "3",
        "--tiers",
        "free=0.2,plus=0.1,full=0",
        "--require",
        "none",
        "--out",
        "dist",
    )
    call("lock", *models, *options, "--consumers")
    call.run("refused", ["lock", *models, *options], code=1)
    for model in models:
        call("inspect MODEL", model)
    call("inspect BUNDLE", "dist/m.clkey")
    call("verify", "dist/net.safetensors", "--bundle", "dist/m.clkey", "--full")
    call("restore", "dist/net.safetensors", "--bundle", "dist/m.clkey", "--out", "back.safetensors")
    call("keystore show", "keys.json")
    call("keystore rotate", "keys.json", "--signing-key")


def _service(call: Commands, folder: Path) -> None:
    config = ("--config", "unlock/service.toml")
    port = free_port()
    call("service init", "unlock", "--app", "com.example.app", "--port", str(port))
    settings = folder / "unlock/service.toml"
    text = settings.read_text()
    settings.write_text(text + "\n[licenses]\nperpetual = true\n")
    call("service check-config", *config)
    settings.write_text(text)
    call("service keys", *config)
    # A bundle that the service does not know yet.
    options = ("--model-id", "n", "--model-version", "1", "--out", "later")
    call("lock", "net.safetensors", *options)
    call("lock", "net.safetensors", "--model-id", "n", "--model-version", "2", "--out", "newer", "--require", "none")
    models = ("dist/net.safetensors", "later/net.safetensors")
    call("compare", *models, "--bundle", "dist/m.clkey", "--bundle", "later/n.clkey")
    call("compare", *models)
    call("service import-keys", *config)
    url = f"http://127.0.0.1:{port}"
    publisher = call("inspect BUNDLE", "dist/m.clkey")["publisher"]
    call("service app-config", *config, "--service", url, "--publisher", publisher)
    call("service migrate", *config)
    call("service accept-rollback", *config)
    call("grant keygen", "another-key.pem")
    grant = call("grant issue", *config, "--product", "full", "--purchase", "order-1")["grant"]
    (folder / "grant.jwt").write_text(grant)
    call("device init", "phone", "--config", "corelocker.json", "--root", "unlock/development-root-key.pem")
    bundle = ("--bundle", "dist/m.clkey")
    with ServiceProcess(settings, port):
        call("device unlock", "phone", *bundle, "--grant", "grant.jwt")
        held = call("device renew", "phone", *bundle)
        (folder / "forged.jwt").write_text(grant[:-8] + "A" * 8)
        assert run(["device", "unlock", "phone", *bundle, "--grant", "forged.jwt"]) == 1
    call("service status", *config)
    _device(call, folder, bundle)
    shown = call("license show", held["license_id"], *config)
    call("license list", *config)
    call("license revoke", held["license_id"], *config)
    purchase = ("--license", held["license_id"])
    call("entitlement show", *purchase, *config)
    call("entitlement allow-device", shown["device"], *purchase, *config)
    call("entitlement release-device", shown["device"], *purchase, *config)
    call("service audit", *config)


def _device(call: Commands, folder: Path, bundle: tuple[str, ...]) -> None:
    call("device show", "phone")
    call("device restore", "phone", "dist/net.safetensors", *bundle)
    np.save(folder / "input.npy", built("resnet")[1][0].numpy())
    call("device run", "phone", "dist/resnet.pte", *bundle, "--input", "input.npy")


@pytest.mark.parametrize("heading", sorted(commands().keys() - COMPARED_ELSEWHERE))
def test_what_is_printed_is_documented_and_what_is_documented_is_printed(
    printed: dict[str, list[Any]], heading: str
) -> None:
    seen: set[str] = set()
    for document in printed[heading]:
        seen |= assert_documented(document, heading)
    assert documented_paths(heading) <= seen


def test_listed_licenses_are_those_that_are_shown(printed: dict[str, list[Any]]) -> None:
    for document in printed["license list"]:
        assert len(document["licenses"]) == 2
        for license_ in document["licenses"]:
            assert_documented(license_, "license show")


def json_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that takes --json. The classes are typer's own copies of click's."""
    if hasattr(command, "list_commands"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from json_commands(command.get_command(context, name), (*path, name))
    elif any("--json" in parameter.opts for parameter in command.params):
        yield " ".join(path)


def test_every_command_with_json_is_on_the_page() -> None:
    page = {" ".join(word for word in heading.split() if word.islower() and word[0] != "-") for heading in commands()}
    assert page - {"refused"} == set(json_commands(typer.main.get_command(app)))
