"""Links lead somewhere, and the commands in the pages exist, with their options."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from corelocker.cli.app import app

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```|((?:^(?: {4}|\t).*\n)+)", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in tracked.stdout.splitlines() if not name.startswith("tests/vectors/")]


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines() -> Iterator[tuple[str, str]]:
    """Every `corelocker ...` line of the pages' code blocks, continued lines joined."""
    for page in pages():
        for block in BLOCK.finditer(page.read_text()):
            text = re.sub(r"\\\n\s*", " ", block[1] or block[2])
            for line in text.splitlines():
                found = re.search(r"(?:^|[\s$(])corelocker ((?:[a-z-]+)(?: .*)?)$", line)
                if found and not line.lstrip().startswith(("#", "//", "│")):
                    yield page.name, found[1].split(" #")[0].rstrip(")")


def all_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with its path. The classes are typer's own copies of click's."""
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    context = typer.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        if not child.hidden:
            yield from all_commands(child, (*path, name))


COMMANDS = dict(all_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), target


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_documented_commands_exist(page: str, line: str) -> None:
    words = shlex.split(line)
    path = next((tuple(words[:n]) for n in (3, 2, 1) if tuple(words[:n]) in COMMANDS), None)
    assert path, f"{page}: there is no command `corelocker {line}`"
    known = {name for parameter in COMMANDS[path].params for name in (*parameter.opts, *parameter.secondary_opts)}
    options = {word.split("=")[0] for word in words[len(path) :] if word.startswith("--")}
    assert options <= known | {"--help"}, f"{page}: {sorted(options - known)}"
    required = [p for p in COMMANDS[path].params if p.required and p.param_type_name == "option"]
    missing = [p.opts[0] for p in required if not options & set(p.opts)] if len(words) > len(path) else []
    assert not missing, f"{page}: {line} lacks {missing}"


def test_every_command_is_documented() -> None:
    text = "\n".join(page.read_text() for page in pages())
    missing = [" ".join(path) for path in COMMANDS if not re.search(rf"corelocker {' '.join(path)}\b", text)]
    assert not missing
