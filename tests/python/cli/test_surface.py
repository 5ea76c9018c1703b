"""What the command line offers: examples that can be pasted, completion, and plain words where an extra is missing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from corelocker.cli.app import app

COMMAND = [sys.executable, "-m", "corelocker"]


def commands(command: Any, context: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    if not hasattr(command, "list_commands"):
        yield words, command
        return
    for name in command.list_commands(context):
        yield from commands(command.get_command(context, name), context, (*words, name))


def examples() -> list[tuple[str, ...]]:
    """The examples of all help texts, as words."""
    root = typer.main.get_command(app)
    context = root.make_context("corelocker", [], resilient_parsing=True)
    found = []
    for words, command in commands(root, context):
        texts = [part.partition("\n\n")[0] for part in (command.help or "").split("Example: ")[1:]]
        assert texts, f"corelocker {' '.join(words)} has no example"
        found += [tuple(shlex.split(text)) for text in texts]
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda words: " ".join(words)[:60])
def test_an_example_names_commands_and_options_that_there_are(example: tuple[str, ...]) -> None:
    assert example[0] == "corelocker"
    command: Any = typer.main.get_command(app)
    words, context = list(example[1:]), command.make_context("corelocker", [], resilient_parsing=True)
    while hasattr(command, "list_commands"):
        command = command.get_command(context, words.pop(0))
        assert command is not None
    for stop in (">", "|", "&&"):
        words = words[: words.index(stop)] if stop in words else words
    command.make_context(command.name, words)  # raises for an option that there is not, or an argument that is missing


@pytest.mark.parametrize(
    ("words", "expected"),
    [("corelocker lo", {"lock"}), ("corelocker keystore ", {"init", "show", "rotate"}), ("corelocker lock --cr", {"--criterion"})],
)  # fmt: skip
def test_the_shell_completes(words: str, expected: set[str]) -> None:
    environment = os.environ | {
        "_CORELOCKER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    code = "from corelocker.cli.app import app; app(prog_name='corelocker')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize(
    ("missing", "extra", "words"),
    [
        ("torch", "export", "export a:b --no-lock --out out"),
        ("torch", "audit", "audit a.safetensors --data d.npz"),
        ("torch", "export", "lock a.safetensors --out o --model-id m --model-version 1 --criterion sensitivity --model a:b"),
        ("sqlalchemy", "service", "service init s --app a"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_named(tmp_path: Any, missing: str, extra: str, words: str) -> None:
    """As in an installation without the extra: the import of what it installs fails."""
    import numpy as np
    from corelocker import Keystore
    from support.small_artifacts import trained_like, write_safetensors

    rng = np.random.default_rng(0)
    write_safetensors(tmp_path / "a.safetensors", {f"{i}.weight": trained_like(rng, 24, 24) for i in range(4)})
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 24), np.float32), y=np.zeros(4, np.int64))
    Keystore.create(tmp_path / "keys.json", b"p")
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from corelocker.cli import main\nsys.argv[0] = 'corelocker'\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        cwd=tmp_path, env=os.environ | {"CORELOCKER_PASSPHRASE": "p"}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert f"corelocker[{extra}]" in done.stderr
    assert done.stderr.count("\n") == 1
