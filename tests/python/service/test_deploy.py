"""The files of deploy/: linted, and the container's steps really run, in a container where there is a daemon."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.clean_machine import CleanMachine, clean_machine
from support.unlock_world import World

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
# systemd's score of what a service may do: 0 is nothing, 10 everything.
EXPOSURE = 1.5


def test_the_unit_lets_the_service_do_little() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here: apt-get install systemd")
    unit = DEPLOY / "corelocker.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True, text=True
    )  # fmt: skip
    found = re.search(r"Overall exposure level for corelocker.service: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= EXPOSURE


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(shutil.which("hadolint") or ROOT / ".venv/bin/hadolint")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_containers_may_do_little() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name in ("unlock", "proxy"):
        container = compose["services"][name]
        assert container["read_only"] is True
        assert container["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in container["security_opt"]
        assert container["restart"] == "unless-stopped"
    assert "ports" not in compose["services"]["unlock"]
    assert "ports" not in compose["services"]["database"]
    assert compose["networks"]["inside"]["internal"] is True
    # Its files are where they are said to be.
    assert (DEPLOY / compose["services"]["unlock"]["build"]["context"] / "deploy/Dockerfile").exists()
    assert "Caddyfile" in str(compose["services"]["proxy"]["volumes"])


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def test_the_dockerfile_in_a_container(tmp_path: Path) -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no container daemon here; the next test runs the same steps in a chroot")
    world = container_world(tmp_path)
    subprocess.run(["docker", "build", "-q", "-f", DEPLOY / "Dockerfile", "-t", "corelocker-test", ROOT], check=True)
    run = [
        "docker",
        "run",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "ALL",
        "-v",
        f"{world.folder}:{world.folder}",
    ]
    run += ["-e", f"CORELOCKER_SERVICE={world.config_path}"]
    name = f"corelocker-{world.port}"
    subprocess.run([*run, "-d", "--name", name, "corelocker-test"], check=True)
    try:
        for _ in range(60):
            state = ["docker", "inspect", "-f", "{{.State.Health.Status}}", name]
            if subprocess.run(state, capture_output=True, text=True).stdout.strip() == "healthy":
                return
            time.sleep(1)
        pytest.fail("the container does not become healthy")
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=False)


def test_the_dockerfile_in_a_chroot(tmp_path: Path) -> None:
    """Every step of the Dockerfile but its base image; the service then runs with a root that takes no writes."""
    world = container_world(tmp_path)
    with clean_machine() as machine:
        # At the same place: the keystore names its key file by an absolute path.
        shutil.copytree(world.folder, machine.root / str(world.folder).lstrip("/"))
        for parent in (world.folder, *world.folder.parents[:-2]):
            (machine.root / str(parent).lstrip("/")).chmod(0o755)
        steps = dict[str, str]()
        folder, user = "/", "0"
        for name, rest in instructions():
            match name:
                case "WORKDIR":
                    folder = rest
                    machine.run(f"mkdir -p {folder}")
                case "COPY" if "--from=" not in rest:
                    copy(machine, rest.split(), folder)
                case "RUN":
                    machine.run(f"cd {folder}; {rest}")
                case "USER":
                    user = rest.partition(":")[0]
                case _:
                    steps[name] = rest
        environment = dict(pair.split("=", 1) for pair in shlex.split(steps["ENV"]))
        environment["PATH"] = environment["PATH"].replace("$PATH", "/usr/bin:/bin")
        environment["CORELOCKER_SERVICE"] = str(world.config_path)
        command = json.loads(steps["ENTRYPOINT"]) + json.loads(steps["CMD"])
        check = json.loads(steps["HEALTHCHECK"].partition("CMD ")[2])
        machine.run(f"chown -R {user}:{user} {world.folder}")
        subprocess.run(["mount", "-o", "remount,ro", str(machine.root)], check=True)
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen(
                machine.command(*command, user=user), env=machine.environment(**environment), stdout=log, stderr=log,
            )  # fmt: skip
        try:
            for _ in range(60):
                words = machine.command(*check, user=user)
                healthy = subprocess.run(words, env=machine.environment(**environment), capture_output=True)
                if healthy.returncode == 0 or process.poll() is not None:
                    break
                time.sleep(0.5)
            assert healthy.returncode == 0, (tmp_path / "log").read_text()
        finally:
            # unshare takes its child along.
            process.kill()
            process.wait(30)


def copy(machine: CleanMachine, names: list[str], folder: str) -> None:
    """What COPY does."""
    *sources, target = names
    place = machine.root / folder.lstrip("/") / target
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            into = place / source if target.endswith("/") else place
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / source, into)


def container_world(folder: Path) -> World:
    """A service whose files name each other relative to their folder; it listens where the health check asks."""
    place = folder / "world"
    place.mkdir()
    world = World(place, "sqlite:///unlock.sqlite")
    path = world.config_path
    path.write_text(path.read_text().replace(f"port = {world.port}", "port = 8440"))
    return world
