"""The OpenAPI document against the service, with schemathesis: all its checks and phases.

The test is short. `CORELOCKER_SCHEMATHESIS_SECONDS=600` makes it a long run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from corelocker.service.config_file import load_config
from corelocker.service.http import create_app
from corelocker.service.problems import PREFIX, PROBLEMS
from starlette.routing import Route
from support.http_server import Server, serving
from support.unlock_world import World

EXAMPLES = 100_000 if os.environ.get("CORELOCKER_SCHEMATHESIS_SECONDS") else 8
SECONDS = os.environ.get("CORELOCKER_SCHEMATHESIS_SECONDS", "")
DOCUMENT = json.loads(resources.files("corelocker.service").joinpath("openapi.json").read_text("utf-8"))
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, World]]:
    folder = tmp_path_factory.mktemp("openapi")
    world = World(folder, f"sqlite:///{folder / 'unlock.sqlite'}")
    with serving(world) as server:
        yield server, world


def test_the_document_is_served(served: tuple[Server, World]) -> None:
    server, _ = served
    answer = server.request("GET", "/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == DOCUMENT


def test_every_route_is_in_the_document(served: tuple[Server, World]) -> None:
    server, _ = served
    for path, method in OPERATIONS:
        filled = path.replace("{license_id}", "x").replace("{app}", "x")
        assert server.request(method.upper(), filled).status_code != 405
        assert server.request("DELETE", filled).status_code == 405


def test_the_document_has_every_route_and_no_other(served: tuple[Server, World]) -> None:
    server, world = served
    routes = create_app(server.service, load_config(world.config_path)).routes
    found = {
        (route.path, method.lower())
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert found == {*OPERATIONS}
    assert len(routes) == len(OPERATIONS)


def test_every_code_is_in_the_document_with_its_status() -> None:
    documented: dict[str, set[int]] = {}
    for response in DOCUMENT["components"]["responses"].values():
        (schema,) = [media["schema"]["allOf"][1]["properties"] for media in response["content"].values()]
        for name in schema["type"]["enum"]:
            documented.setdefault(name.removeprefix(PREFIX), set()).add(schema["status"]["const"])
        retried = any(PROBLEMS[name.removeprefix(PREFIX)].retry_after for name in schema["type"]["enum"])
        assert ("Retry-After" in response["headers"]) == retried
    assert all(statuses == {PROBLEMS[code].status} for code, statuses in documented.items())
    # Of the head of a request and of unknown addresses no operation can speak.
    assert PROBLEMS.keys() - documented.keys() == {"method-not-allowed", "headers-too-large"}


def test_schemathesis_finds_nothing(served: tuple[Server, World], tmp_path: Path) -> None:
    server, world = served
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", "all", "--mode", "all",
        "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES), "--continue-on-failure",
        "--no-color", "--generation-database", "none",
    ]  # fmt: skip
    if SECONDS:
        command += ["--max-time", SECONDS]
    # Generated bodies can be larger than the service takes, and 413 is a rejection too.
    statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
    settings = f"[checks]\nnegative_data_rejection.expected-statuses = {json.dumps(statuses)}\n"
    (tmp_path / "schemathesis.toml").write_text(settings)
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, "\n".join(line[:300] for line in done.stdout.splitlines()[-80:])
    requests = [line for line in server.lines() if line["event"] == "request"]
    routes = create_app(server.service, load_config(world.config_path)).routes
    assert {line["route"] for line in requests} - {"other"} == {
        route.endpoint.__name__ for route in routes if isinstance(route, Route)
    }
    seen = {line["status"] for line in requests}
    assert {200, 201, 400, 403, 404, 405, 415} <= seen
    assert 500 not in seen
