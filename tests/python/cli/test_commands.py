"""The commands as a user runs them, in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corelocker.cli.app import run
from corelocker.hashing import FileHashes
from corelocker.raw_files import Stamp
from support.small_artifacts import trained_like, write_safetensors

TIERS = "free=0.2,plus=0.1,full=0"


class Shell:
    """A folder with a keystore and two models, and a way to run commands there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        for name in ("a", "b"):
            tensors = {f"{name}.{i}.weight": trained_like(rng, 24, 24) for i in range(4)}
            write_safetensors(folder / f"{name}.safetensors", tensors)
        # A key file: with a passphrase, every command would spend a third of a second on scrypt.
        self("keystore", "init", "keys.json", "--kek-file", "kek")

    def __call__(self, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CORELOCKER")}
        environment |= {"CORELOCKER_PASSPHRASE": "open sesame"} | variables
        done = subprocess.run(
            [sys.executable, "-m", "corelocker", *arguments],
            cwd=self.folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0, **variables: str) -> Any:
        return json.loads(self(*arguments, "--json", code=code, **variables).stdout)

    def lock(self, *arguments: str, code: int = 0) -> Any:
        return self.json(
            "lock",
            *arguments,
            "--model-id",
            "m",
            "--model-version",
            "3",
            "--forget-earlier-locks",
            "--tiers",
            TIERS,
            "--require",
            "none",
            code=code,
        )

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("shell"))
    shell.lock("a.safetensors", "b.safetensors", "--out", "dist")
    return shell


def test_lock_verify_restore(shell: Shell) -> None:
    for name in ("a", "b"):
        assert len(shell.read(f"dist/{name}.safetensors")) == len(shell.read(f"{name}.safetensors"))
        assert shell.read(f"dist/{name}.safetensors") != shell.read(f"{name}.safetensors")
        full = shell.json("verify", f"dist/{name}.safetensors", "--bundle", "dist/m.clkey", "--full")
        assert full["tiers_restored"] == ["free", "plus", "full"]
    shell(
        "restore",
        "dist/a.safetensors",
        "--bundle",
        "dist/m.clkey",
        "--keystore",
        "keys.json",
        "--out",
        "back.safetensors",
    )
    assert shell.read("back.safetensors") == shell.read("a.safetensors")
    shell("restore", "dist/a.safetensors", "--bundle", "dist/m.clkey", "--tier", "plus", "--out", "plus.safetensors")
    assert shell.read("plus.safetensors") not in (shell.read("a.safetensors"), shell.read("dist/a.safetensors"))
    shell("restore", "dist/a.safetensors", "--bundle", "dist/m.clkey", "--tier", "free", "--out", "free.safetensors")
    assert shell.read("free.safetensors") == shell.read("dist/a.safetensors")


def test_lock_says_what_it_did(shell: Shell) -> None:
    result = shell.lock("a.safetensors", "--out", "said", "--save-plan", "plan.json")
    (artifact,) = result["artifacts"]
    assert [t["name"] for t in result["tiers"]] == ["free", "plus", "full"]
    assert 0 < artifact["locked_channels"] < artifact["channels"]
    assert artifact["locked_bytes"] == sum(artifact["patch_bytes"].values())
    assert artifact["locked_fraction"] == pytest.approx(artifact["locked_bytes"] / artifact["weight_bytes"], abs=1e-6)
    again = shell.lock("a.safetensors", "--out", "again", "--plan", "plan.json")
    assert again["artifacts"][0]["locked_bytes"] == artifact["locked_bytes"]
    assert shell.read("again/a.safetensors") == shell.read("said/a.safetensors")
    text = shell(
        "lock", "a.safetensors", "--out", "text", "--model-id", "m", "--model-version", "4", "--forget-earlier-locks"
    ).stdout
    assert "of 96" in text
    assert "m.clkey" in text


def test_a_seed_makes_the_lock_repeatable(shell: Shell) -> None:
    for out, seed in (("s1", "x"), ("s2", "x"), ("s3", "y")):
        shell.lock("a.safetensors", "--out", out, "--seed", seed)
    assert shell.read("s1/a.safetensors") == shell.read("s2/a.safetensors") != shell.read("s3/a.safetensors")
    assert shell.read("s1/m.clkey") != shell.read("s2/m.clkey"), "content keys and nonces are always fresh"


def test_inspect(shell: Shell) -> None:
    model = shell.json("inspect", "a.safetensors")
    assert [t["shape"] for t in model["tensors"]] == [[24, 24]] * 4
    bundle = shell.json("inspect", "dist/m.clkey")
    assert (bundle["model"], bundle["model_version"], bundle["tiers"]) == ("m", 3, ["free", "plus", "full"])
    assert bundle["artifacts"][0]["files"][0]["sha256"] == hashlib.sha256(shell.read("dist/a.safetensors")).hexdigest()
    assert "24 x 24" in shell("inspect", "a.safetensors").stdout
    assert "free > plus > full" in shell("inspect", "dist/m.clkey").stdout


def test_a_pinned_publisher(shell: Shell) -> None:
    (shell.folder / "publisher.pem").write_text(shell("keystore", "show", "keys.json", "--pem").stdout)
    thumbprint = shell.json("keystore", "show", "keys.json")["publisher"]
    for pin in ("publisher.pem", thumbprint):
        assert shell.json("verify", "dist/a.safetensors", "--bundle", "dist/m.clkey", "--publisher", pin)[
            "publisher_pinned"
        ]
    error = shell.json("verify", "dist/a.safetensors", "--bundle", "dist/m.clkey", "--publisher", "A" * 43, code=1)
    assert error["error"]["code"] == "bundle-publisher"
    shell("verify", "dist/a.safetensors", "--bundle", "dist/m.clkey", "--publisher", "nobody", code=2)


def refused(shell: Shell, code: str, *arguments: str, **variables: str) -> None:
    before = sorted(p.relative_to(shell.folder).as_posix() for p in shell.folder.rglob("*"))
    error = shell.json(*arguments, code=1, **variables)["error"]
    assert error["code"] == code, error
    plain = shell(*arguments, code=1, **variables).stderr
    assert code in plain
    assert plain.count("\n") == 1
    assert sorted(p.relative_to(shell.folder).as_posix() for p in shell.folder.rglob("*")) == before


def flipped_at(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_bad_locked_files(shell: Shell) -> None:
    raw = shell.read("dist/a.safetensors")
    bundle = shell.read("dist/m.clkey")
    bad = shell.folder / "bad"
    bad.mkdir()
    path = bad / "a.safetensors"
    verify = ("verify", "bad/a.safetensors", "--bundle", "dist/m.clkey")
    restore = ("restore", "bad/a.safetensors", "--bundle", "dist/m.clkey", "--out", "never.safetensors")
    for data, code in ((raw[:-1], "restore-size"), (raw + b"\0", "restore-size"), (b"", "restore-size")):
        path.write_bytes(data)
        refused(shell, code, *verify)
        refused(shell, code, *restore)
    flipped = bytearray(raw)
    flipped[-5] ^= 1
    path.write_bytes(flipped)
    refused(shell, "restore-replaced", *verify)
    assert shell.json(*restore, code=1)["error"]["code"] in ("restore-replaced", "restore-restored")
    path.write_bytes(shell.read("a.safetensors"))
    refused(shell, "restore-already", *restore)
    path.write_bytes(raw)
    place = 12 + int.from_bytes(bundle[8:12], "little") + 64 + 200  # inside the first section
    for damage, code in (
        (bundle[:-1], "bundle-truncated"), (bundle[:40], "bundle-truncated"), (bundle + b"\0", "bundle-trailing"),
        (b"CLKEYB01" + bundle[8:], "bundle-version"), (b"CLKEYS02" + bundle[8:], "bundle-magic"),
        (bundle[:8] + b"\xff\xff\xff\xff" + bundle[12:], "bundle-header"),
        (bundle.replace(b'"model_version":3', b'"model_version":4'), "bundle-signature"),
        (flipped_at(bundle, place), "bundle-content-key"),
    ):  # fmt: skip
        (bad / "m.clkey").write_bytes(damage)
        error = shell.json(
            "restore", "bad/a.safetensors", "--bundle", "bad/m.clkey", "--tier", "full", "--out", "never", code=1
        )
        assert error["error"]["code"] == code, error
    assert not (shell.folder / "never.safetensors").exists()


def test_the_wrong_bundle_keystore_or_tier(shell: Shell) -> None:
    rng = np.random.default_rng(9)
    write_safetensors(shell.folder / "c.safetensors", {f"c.{i}.weight": trained_like(rng, 30, 30) for i in range(4)})
    shell.lock("c.safetensors", "--out", "other")
    refused(shell, "bundle-mismatch", "verify", "dist/a.safetensors", "--bundle", "other/m.clkey")
    shell("lock", "a.safetensors", "--out", "v4", "--model-id", "m", "--model-version", "4", "--forget-earlier-locks")
    refused(shell, "restore-replaced", "verify", "dist/a.safetensors", "--bundle", "v4/m.clkey")
    shell("keystore", "init", "foreign.json")
    arguments = ("restore", "dist/a.safetensors", "--bundle", "dist/m.clkey", "--out", "never")
    refused(shell, "keystore-entry", *arguments, "--keystore", "foreign.json")
    refused(shell, "file-access", *arguments, "--keystore", "missing.json")
    refused(shell, "keystore-secret", *arguments, "--keystore", "foreign.json", CORELOCKER_PASSPHRASE="wrong")
    refused(shell, "bundle-mismatch", *arguments, "--tier", "gold")
    (shell.folder / "open.json").write_bytes(shell.read("keys.json"))
    (shell.folder / "open.json").chmod(0o644)
    refused(shell, "keystore-permission", *arguments, "--keystore", "open.json")


def test_outputs_are_never_overwritten_by_chance(shell: Shell) -> None:
    arguments = (
        "lock",
        "a.safetensors",
        "--out",
        "dist",
        "--model-id",
        "m",
        "--model-version",
        "3",
        "--forget-earlier-locks",
    )
    refused(shell, "output-exists", *arguments)
    refused(
        shell,
        "output-exists",
        "lock",
        "a.safetensors",
        "--out",
        ".",
        "--model-id",
        "m",
        "--model-version",
        "3",
        "--forget-earlier-locks",
        "--force",
    )
    refused(shell, "output-exists", "restore", "dist/a.safetensors", "--bundle", "dist/m.clkey", "--out", "keys.json")
    refused(shell, "output-exists", "keystore", "init", "keys.json")
    refused(
        shell,
        "file-access",
        "lock",
        "a.safetensors",
        "--out",
        "/proc/nowhere",
        "--model-id",
        "m",
        "--model-version",
        "3",
        "--forget-earlier-locks",
    )


def test_wrong_options_are_told_before_a_passphrase_is_asked_for(shell: Shell) -> None:
    """No passphrase and no terminal: opening the keystore first would end in another error."""
    shell("keystore", "init", "asks.json")
    done = subprocess.run(
        [sys.executable, "-m", "corelocker", "lock", "a.safetensors", "--out", "x", "--model-id", "m",
         "--model-version", "3", "--tiers", "full=1", "--keystore", "asks.json"],
        cwd=shell.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("CORELOCKER")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "tiers" in done.stderr.lower()


def test_a_full_disk_leaves_nothing(shell: Shell) -> None:
    """A limit on file size fails writes as a full disk does."""
    before = sorted(p.name for p in shell.folder.iterdir())
    keystore = (shell.folder / "keys.json").read_bytes()
    environment = os.environ | {"CORELOCKER_PASSPHRASE": "open sesame"}
    done = subprocess.run(
        [sys.executable, "-m", "corelocker", "lock", "a.safetensors", "--out", "full/deep",
         "--model-id", "m", "--model-version", "3", "--forget-earlier-locks", "--json"],
        cwd=shell.folder, env=environment, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "file-access"
    assert sorted(p.name for p in shell.folder.iterdir()) == before
    assert (shell.folder / "keys.json").read_bytes() == keystore


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("lock",), ("lock", "a.safetensors"), ("nothing",), ("verify", "dist/a.safetensors"),
        ("keystore", "rotate", "keys.json"),
        ("lock", "a.safetensors", "--out", "x", "--model-id", "m", "--model-version", "3", "--tiers", "full=1"),
        ("lock", "a.safetensors", "--out", "x", "--model-id", "../m", "--model-version", "3", "--forget-earlier-locks"),
        ("lock", "a.safetensors", "--out", "x", "--model-id", "m", "--model-version", "-1"),
        ("lock", "a.safetensors", "--out", "x", "--model-id", "m", "--model-version", "1", "--criterion", "l2"),
        ("export",), ("export", "a:b", "--config", "c.toml"),
    ],
    ids=lambda a: " ".join(a)[:40],
)  # fmt: skip
def test_wrong_usage_is_2(shell: Shell, arguments: tuple[str, ...]) -> None:
    shell(*arguments, code=2)


def test_every_help_has_an_example(shell: Shell) -> None:
    for command in (
        "lock",
        "inspect",
        "verify",
        "restore",
        "export",
        "keystore init",
        "keystore show",
        "keystore rotate",
    ):
        assert "Example" in shell(*command.split(), "--help").stdout, command


def test_rotate(shell: Shell) -> None:
    shell("keystore", "init", "r.json")
    old = shell.json("keystore", "show", "r.json")["publisher"]
    new = shell.json("keystore", "rotate", "r.json", "--signing-key", "--secret", CORELOCKER_NEW_PASSPHRASE="another")
    assert new["publisher"] != old
    assert new["publisher_keys"][1]["thumbprint"] == old
    shell("keystore", "show", "r.json", code=1)
    assert shell.json("keystore", "show", "r.json", CORELOCKER_PASSPHRASE="another")["publisher"] == new["publisher"]


def test_a_key_file_instead_of_a_passphrase(shell: Shell) -> None:
    assert (shell.folder / "kek").stat().st_mode & 0o077 == 0
    assert shell.json("keystore", "show", "keys.json", CORELOCKER_PASSPHRASE="")["publisher"]
    shell("keystore", "rotate", "keys.json", "--secret", "--kek-file", "kek2")
    (shell.folder / "kek").rename(shell.folder / "kek-old")
    assert shell.json("keystore", "show", "keys.json")["publisher"]


def test_passphrase_from_a_file_or_a_terminal_and_never_shown(shell: Shell) -> None:
    (shell.folder / "secret").write_text("open sesame\n")
    shell("keystore", "init", "p.json")
    shell("keystore", "show", "p.json", "--passphrase-file", "secret", CORELOCKER_PASSPHRASE="wrong")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CORELOCKER")}
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "corelocker", "keystore", "show", "p.json"],
        cwd=shell.folder, env=environment, stdin=child, stdout=subprocess.PIPE, stderr=child, start_new_session=True,
    )  # fmt: skip
    asked = os.read(parent, 1000)
    os.write(parent, b"open sesame\n")
    output = process.communicate(timeout=60)[0].decode()
    os.close(child)
    os.close(parent)
    assert b"assphrase" in asked
    assert process.returncode == 0
    assert "publisher" in output
    assert "sesame" not in output
    done = subprocess.run(
        [sys.executable, "-m", "corelocker", "keystore", "show", "p.json"],
        cwd=shell.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "keystore-secret" in done.stderr


def test_lock_takes_the_hashes_that_were_begun(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of its files is hashed twice, also of those that come after an option."""
    begun: list[str] = []

    class Hashes(FileHashes):
        def _hash(self, path: Path) -> tuple[Stamp, bytes]:
            begun.append(path.name)
            return super()._hash(path)

    monkeypatch.chdir(shell.folder)
    monkeypatch.setenv("CORELOCKER_PASSPHRASE", "open sesame")
    options = [
        "--out",
        "begun",
        "--model-id",
        "m",
        "--model-version",
        "1",
        "--forget-earlier-locks",
        "--require",
        "none",
    ]
    with Hashes() as hashes:
        hashes.begin(Path("a.safetensors"))
        assert run(["lock", "a.safetensors", *options, "b.safetensors", "--json"], hashes) == 0
    assert begun == ["a.safetensors", "b.safetensors"]
    shell("verify", "begun/b.safetensors", "--bundle", "begun/m.clkey", "--full")


def test_file_commands_import_neither_torch_nor_coremltools(shell: Shell) -> None:
    code = (
        "import sys; from corelocker.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        "heavy = sorted({'torch', 'coremltools', 'executorch', 'safetensors'} & set(sys.modules))\n"
        "sys.exit(code or (f'imports {heavy}' if heavy else 0))"
    )
    environment = os.environ | {"CORELOCKER_PASSPHRASE": "open sesame"}
    for arguments in (
        ("lock", "a.safetensors", "--out", "light", "--model-id", "m", "--model-version", "1", "--forget-earlier-locks"),
        ("verify", "light/a.safetensors", "--bundle", "light/m.clkey", "--full"), ("inspect", "a.safetensors"),
        ("restore", "light/a.safetensors", "--bundle", "light/m.clkey", "--out", "light.safetensors"), ("--help",),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=shell.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    quick = subprocess.run(
        [sys.executable, "-c", code.replace("'safetensors'", "'numpy', 'cryptography', 'google.protobuf'"), "--help"],
        cwd=shell.folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert quick.returncode == 0, quick.stderr
