"""What happens to the output of a command that cannot be printed."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
from corelocker import LockWarning
from corelocker.cli import app

COMMAND = [sys.executable, "-m", "corelocker", "--version"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "environment", [BUFFERED, BUFFERED | {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"]
)
def test_a_full_disk_is_an_error_in_one_line(environment: dict[str, str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(COMMAND, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device [file-access]" in done.stderr


def test_a_reader_that_has_gone_is_an_error_in_one_line() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(COMMAND, stdout=writing, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Broken pipe [file-access]" in done.stderr


def test_the_output_is_complete_when_the_process_ends_at_once() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, env=BUFFERED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("corelocker ")


def test_a_warning_of_ours_is_one_line_and_those_of_others_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    def warn(arguments: list[str], obj: object) -> None:
        warnings.warn("little is known", LockWarning, stacklevel=1)
        warnings.warn("of another library", UserWarning, stacklevel=1)

    monkeypatch.setattr(app, "app", warn)
    shown = warnings.showwarning
    assert app.run(["lock"]) == 0
    assert warnings.showwarning is shown
    assert capsys.readouterr().err == "corelocker: warning: little is known\n"
    assert [str(found.message) for found in recwarn] == ["of another library"]
