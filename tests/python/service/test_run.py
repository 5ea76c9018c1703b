"""The service as its operator runs it: workers on one socket, stopping, dying, refusing to start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from support.http_server import eventually
from support.unlock_world import Phone, ServiceProcess, World, free_port, post


def run_service(config: Path) -> subprocess.CompletedProcess[str]:
    """`corelocker service run` that is expected to end by itself."""
    command = [sys.executable, "-m", "corelocker", "service", "run", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def with_http(world: World, **settings: object) -> None:
    """Add entries to `[http]`."""
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    path = world.config_path
    path.write_text(path.read_text().replace("rate_limit = 0\n", f"rate_limit = 0\n{text}"))


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def log_lines(service: ServiceProcess) -> list[dict[str, object]]:
    return [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]


def test_workers_share_a_socket_and_metrics(sqlite_world: World) -> None:
    metrics_port = free_port()
    sqlite_world.configure(workers=3)
    with_http(sqlite_world, metrics_port=metrics_port)
    with sqlite_world.start() as service:
        assert len(children(service.process.pid)) == 3

        def ask(_: int) -> int:
            return requests.post(f"{service.url}/v1/challenges", json={}, timeout=30).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(60))) == {201}
        phone, grant = Phone(sqlite_world), sqlite_world.grant("p")
        # A challenge of one worker is good at every other.
        for _ in range(6):
            challenge = post(f"{service.url}/v1/challenges", {})[1]["challenge"]
            assert post(f"{service.url}/v1/licenses", phone.unlock_body(challenge, grant))[0] == 201
        counted = {("challenge", 66), ("unlock", 6)}
        counted_lines = [f'corelocker_requests_total{{route="{route}",status="201"}} {n}.0' for route, n in counted]
        until = time.monotonic() + 20
        # Workers write what they count a few times a second, each for itself.
        while True:
            answer = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10)
            missing = [line for line in counted_lines if line not in answer.text]
            if not missing or time.monotonic() > until:
                break
            time.sleep(0.1)
        assert missing == []
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert requests.get(f"{service.url}/metrics", timeout=10).status_code == 404
        assert service.stop() == 0
    assert log_lines(service)[-1]["event"] == "stopped"


def test_a_worker_that_dies_is_replaced(sqlite_world: World) -> None:
    sqlite_world.configure(workers=2)
    with sqlite_world.start() as service:
        first = children(service.process.pid)
        os.kill(first[0], signal.SIGKILL)
        until = time.monotonic() + 20
        while time.monotonic() < until and (
            len(set(children(service.process.pid)) - {first[0]}) < 2
            or sum(line["event"] == "worker-died" for line in log_lines(service)) < 1
        ):
            time.sleep(0.05)
        now = children(service.process.pid)
        assert len(now) == 2
        assert first[1] in now
        assert requests.get(f"{service.url}/readyz", timeout=30).status_code == 200
        assert service.stop() == 0


def test_workers_that_cannot_be_replaced_do_not_end_those_that_serve(sqlite_world: World) -> None:
    """A keystore that is damaged while the service runs: nothing is wrong with the worker that has it open."""
    world = sqlite_world
    world.configure(workers=2)
    keystore = world.folder / "service-keys.json"
    sound = keystore.read_bytes()
    with world.start() as service:
        first = children(service.process.pid)
        # Longer than what counts as a start that failed.
        time.sleep(10.5)
        keystore.write_bytes(b"{}")
        os.kill(first[0], signal.SIGKILL)
        # More often than workers are replaced where none serves.
        assert eventually(lambda: sum(line["event"] == "worker-died" for line in log_lines(service)) >= 7, 60)
        assert first[1] in children(service.process.pid)
        assert requests.get(f"{service.url}/readyz", timeout=30).status_code == 200
        keystore.write_bytes(sound)
        # The one that is replaced now has the keystore.
        assert eventually(lambda: len(set(children(service.process.pid)) - {first[1]}) == 1, 30)
        time.sleep(2)
        os.kill(first[1], signal.SIGKILL)
        assert eventually(lambda: first[1] not in children(service.process.pid), 30)
        assert eventually(lambda: requests.get(f"{service.url}/readyz", timeout=30).status_code == 200, 30)
        assert service.stop() == 0


def test_workers_that_all_die_end_the_service(sqlite_world: World) -> None:
    world = sqlite_world
    keystore = world.folder / "service-keys.json"
    with world.start() as service:
        keystore.write_bytes(b"{}")
        os.kill(children(service.process.pid)[0], signal.SIGKILL)
        assert service.process.wait(60) == 1
    assert sum(line["event"] == "worker-cannot-start" for line in log_lines(service)) >= 4
    assert "die as soon as they start" in service.log.read_text()


def test_stopping_finishes_what_has_begun(sqlite_world: World) -> None:
    with sqlite_world.start() as service:
        phone, grant = Phone(sqlite_world), sqlite_world.grant("p")
        challenge = post(f"{service.url}/v1/challenges", {})[1]["challenge"]
        body = json.dumps(phone.unlock_body(challenge, grant)).encode()
        address = ("127.0.0.1", sqlite_world.port)
        with (
            socket.create_connection(address, timeout=20) as begun,
            socket.create_connection(address, timeout=20) as idle,
        ):
            head = f"POST /v1/licenses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            begun.sendall(head.encode() + b"\r\n\r\n" + body[:100])
            time.sleep(0.3)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(1)
            # Nobody new is let in, those who wait for nothing are sent away, and who is in the middle gets an answer.
            refused = socket.socket()
            assert refused.connect_ex(address) != 0
            refused.close()
            assert idle.recv(100) == b""
            begun.sendall(body[100:])
            received = b""
            while part := begun.recv(65536):
                received += part
        assert received.startswith(b"HTTP/1.1 201 ")
        assert b"connection: close" in received.lower()
        assert service.process.wait(20) == 0


def test_stopping_does_not_wait_for_ever(sqlite_world: World) -> None:
    with_http(sqlite_world, shutdown_grace=1, request_timeout=60)
    with sqlite_world.start() as service:
        with socket.create_connection(("127.0.0.1", sqlite_world.port), timeout=20) as begun:
            begun.sendall(b"POST /v1/licenses HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
            begun.sendall(b"content-length: 100\r\n\r\n{")
            time.sleep(0.3)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(20) == 0
        assert not Path(f"/proc/{service.process.pid}").exists()


def test_a_unix_socket(sqlite_world: World) -> None:
    path = sqlite_world.folder / "s"
    with_http(sqlite_world, socket="s", trusted_proxies=["unix"])
    # What a killed service left behind is no obstacle.
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    command = [sys.executable, "-m", "corelocker", "service", "run", "--config", str(sqlite_world.config_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        received = b""
        for _ in range(200):
            time.sleep(0.05)
            with socket.socket(socket.AF_UNIX) as connection:
                if connection.connect_ex(str(path)) != 0:
                    continue
                connection.settimeout(20)
                connection.sendall(
                    b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.7\r\nconnection: close\r\n\r\n"
                )
                while part := connection.recv(65536):
                    received += part
                break
        assert received.startswith(b"HTTP/1.1 200 ")
        assert path.stat().st_mode & 0o007 == 0
        second = run_service(sqlite_world.config_path)
        assert second.returncode != 0
        assert "cannot listen" in second.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    lines = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]
    assert [line["client"] for line in lines if line["event"] == "request"] == ["192.0.2.7"]


def test_an_unsafe_configuration_is_refused_with_every_finding(sqlite_world: World) -> None:
    path = sqlite_world.config_path
    text = path.read_text().replace('environment = "development"', 'environment = "production"')
    path.write_text(text.replace("https://unlock.example.com", "http://unlock.example.com"))
    os.chmod(sqlite_world.folder / "service-keys.json", 0o644)
    done = run_service(path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) >= 3
    assert all(line.endswith("]") for line in errors)
    assert "Traceback" not in done.stderr
    assert not (sqlite_world.folder / "unlock.sqlite").exists()


def test_an_address_that_is_taken(sqlite_world: World) -> None:
    with socket.create_server(("127.0.0.1", sqlite_world.port)):
        done = run_service(sqlite_world.config_path)
    assert done.returncode != 0
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_is_not_there(sqlite_world: World) -> None:
    path = sqlite_world.config_path
    url = f"postgresql://nobody:a-password@127.0.0.1:{free_port()}/none"
    path.write_text(path.read_text().replace(sqlite_world.database_url, url))
    done = run_service(path)
    assert done.returncode == 1
    assert "a-password" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
