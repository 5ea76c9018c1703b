"""docs/production.md as a new operator would follow it: every command of it, pasted in order, on a clean machine.

The commands are those of the page, so it cannot drift. In their place of systemd stands a small program that starts what
a unit says, as the user that it says.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.clean_machine import CleanMachine, clean_machine

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "tests/data/exports/mobilenet-int8"
SECTIONS = ("From a clean machine to an unlock", "Backup and restore", "Changing keys")

SYSTEMCTL = r"""#!/bin/bash
# In the place of systemd, which does not run here.
set -eu
[ "$1" = enable ] && shift
action=${1#--} name=$2
unit=/etc/systemd/system/$name.service
of() { sed -n "s|^$1=||p" "$unit"; }
case $name in
  postgresql) service postgresql "$action" ;;
  nginx) nginx -s quit 2>/dev/null && sleep 1; nginx ;;
  *)
    case $action in
      now | start)
        user=$(of User)
        install -d -o "$user" -m 0700 "/var/lib/$(of StateDirectory)"
        setsid setpriv --reuid "$user" --regid "$(of Group)" --init-groups $(of ExecStart) >>/var/log/$name.log 2>&1 &
        echo $! >/run/$name.pid ;;
      stop) kill "$(cat /run/$name.pid)"; while kill -0 "$(cat /run/$name.pid)" 2>/dev/null; do sleep 0.1; done ;;
      reload) kill -HUP "$(cat /run/$name.pid)"; sleep 5 ;;
    esac ;;
esac
"""


def blocks(section: str) -> list[str]:
    """The shell commands of a section of the page."""
    page = (ROOT / "docs/production.md").read_text()
    text = re.split(r"^## ", page.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def wheel(folder: Path) -> None:
    """The package, as a registry would have it."""
    source = folder / "source"
    shutil.copytree(
        ROOT / "sdk/python", source / "sdk/python", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "wheels", source],
        check=True,
    )
    shutil.copy2(ROOT / "tools/constraints.txt", folder / "wheels/constraints.txt")


def prepare(machine: CleanMachine, folder: Path) -> None:
    """What the page takes for granted: the package in a registry, a copy of the repository, a model, systemd."""
    wheel(folder)
    shutil.copytree(folder / "wheels", machine.root / "srv/corelocker-wheels")
    shutil.copytree(ROOT / "deploy", machine.root / "usr/local/src/corelocker/deploy")
    (model,) = MODEL.glob("*.pte")
    shutil.copy2(model, machine.root / "root/scanner.pte")
    program = machine.root / "usr/local/bin/systemctl"
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)


def test_the_commands_of_the_page_lead_to_an_unlock(tmp_path: Path) -> None:
    anchor = SECTIONS[0].lower().replace(" ", "-")
    assert f"(docs/production.md#{anchor})" in (ROOT / "README.md").read_text().split("### In production")[1]
    install, *rest = [block for section in SECTIONS for block in blocks(section)]
    assert len(rest) >= 10
    with clean_machine() as machine:
        prepare(machine, tmp_path)
        packages = {
            "PIP_FIND_LINKS": "/srv/corelocker-wheels",
            "PIP_CONSTRAINT": "/srv/corelocker-wheels/constraints.txt",
        }
        machine.run(f"cd /root\n{install}", environment=packages | {"DEBIAN_FRONTEND": "noninteractive"})
        try:
            printed = machine.run("set -x; cd /root; umask 022\n" + "\n".join(rest), network=False)
        except AssertionError as error:
            log = machine.root / "var/log/corelocker.log"
            pytest.fail(f"{error}\n{log.read_text()[-3000:] if log.exists() else ''}")
    assert "last 24 hours: 1 unlocks, 0 renewals" in printed
    assert "accepted: the database was" in printed
