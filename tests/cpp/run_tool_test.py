"""corelocker-run on every fixture: the restored output is the original's, patches come through pipes, errors have names.

run_tool_test.py CORELOCKER_RUN FIXTURES
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

DIGESTS = ("locked_sample", "restored_sample", "restored_sha256")


def pipe_of(data: bytes) -> tuple[int, threading.Thread]:
    """A descriptor from which `data` can be read once, and who writes it."""
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as stream:
            stream.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    return reader, thread


def patch_options(
    option: str, folder: Path, file: dict[str, Any]
) -> tuple[list[str], list[int], list[threading.Thread]]:
    arguments, readers, threads = [], [], []
    for patch in filter(None, file["patches"]):
        reader, thread = pipe_of((folder / patch["file"]).read_bytes())
        arguments += [option, ":".join((f"/dev/fd/{reader}", *(patch[name] for name in DIGESTS)))]
        readers.append(reader)
        threads.append(thread)
    return arguments, readers, threads


def run(tool: str, folder: Path, fixture: dict[str, Any], state: str, restore: bool) -> tuple[int, str, bytes]:
    """Exit status, standard error's last line, and output 0 of the fixture's original or locked files."""
    arguments = [tool, "--full-check", "--model", str(folder / fixture["program"][state])]
    arguments += ["--input", str(folder / fixture["input"])]
    readers: list[int] = []
    threads: list[threading.Thread] = []
    files = [("--patch", fixture["program"])]
    if fixture["data"]:
        arguments += ["--data", str(folder / fixture["data"][state])]
        files.append(("--data-patch", fixture["data"]))
    for option, file in files if restore else []:
        more, opened, started = patch_options(option, folder, file)
        arguments += more
        readers += opened
        threads += started
    with tempfile.TemporaryDirectory() as outputs:
        arguments += ["--output", f"{outputs}/out"]
        result = subprocess.run(arguments, pass_fds=readers, capture_output=True, check=False)
        for reader in readers:
            os.close(reader)
        for thread in threads:
            thread.join()
        output = Path(outputs, "out.0")
        if result.returncode == 0:
            json.loads(result.stdout)
        lines = result.stderr.decode().splitlines() or [""]
        return result.returncode, lines[-1], output.read_bytes() if output.exists() else b""


def main(tool: str, fixtures: Path) -> None:
    for name in json.loads((fixtures / "fixtures.json").read_text()):
        folder = fixtures / name
        fixture = json.loads((folder / "fixture.json").read_text())
        original = run(tool, folder, fixture, "original", restore=False)
        locked = run(tool, folder, fixture, "locked", restore=False)
        restored = run(tool, folder, fixture, "locked", restore=True)
        assert original[0] == locked[0] == restored[0] == 0, (name, original, locked, restored)
        assert original[2] == restored[2] != b"", name
        assert locked[2] != original[2], name
        status, message, _ = run(tool, folder, fixture, "original", restore=True)
        assert status == 1, name
        assert message.startswith("corelocker-run: restore-already: "), message
    status = subprocess.run([tool], capture_output=True, check=False).returncode
    assert status == 2, status
    print("the same output from original and restored files")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
