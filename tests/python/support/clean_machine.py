"""A clean machine: this one's system in a chroot of its own, where whatever is written is gone afterwards.

The root file system is an overlay over this machine's, with everything written kept in memory; processes have process
ids, mounts and a host name of their own, and the network is this machine's. Needs root, and a kernel with overlayfs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

# Of this machine's environment: how its package managers are set up.
_KEPT = (
    "PIP_",
    "UV_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_",
    "REQUESTS_",
)


class CleanMachine:
    """The machine while it exists; `root` is its root folder as this machine sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, *words: str, user: str | None = None, network: bool = True) -> list[str]:
        """What runs these words inside, as root or as a user; it ends when its process here does.

        Without `network` they have a loopback of their own, so that they may use any port.
        """
        inside = ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        own = ["--mount", "--pid", "--uts", *([] if network else ["--net"])]
        return ["/usr/bin/unshare", *own, "--fork", "--kill-child", f"--mount-proc={self.root}/proc",
                "/usr/sbin/chroot", str(self.root), *inside, *words]  # fmt: skip

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
        return kept | {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} | more

    def run(
        self,
        script: str,
        *,
        network: bool = True,
        seconds: float = 600,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """What a Bash script prints; it stops at the first command that fails, and that is an error here."""
        loopback = "" if network else "ip link set lo up\n"
        done = subprocess.run(
            self.command("bash", "-euo", "pipefail", "-c", loopback + script, network=network),
            env=self.environment(**dict(environment or {})), stdin=subprocess.DEVNULL, text=True, timeout=seconds,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout


@contextmanager
def clean_machine() -> Iterator[CleanMachine]:
    """Skips the test where there can be none."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a clean machine needs root and unshare")
    base = Path(tempfile.mkdtemp(prefix="corelocker-machine-"))
    mounts: list[Path] = []

    def mount(point: Path, *arguments: str) -> None:
        point.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", *arguments, str(point)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no clean machine here: {done.stderr.strip()}")
        mounts.append(point)

    try:
        mount(base / "memory", "-t", "tmpfs", "-o", "size=4g", "tmpfs")
        for name in ("upper", "work"):
            (base / "memory" / name).mkdir()
        layers = f"lowerdir=/,upperdir={base}/memory/upper,workdir={base}/memory/work"
        mount(base / "root", "-t", "overlay", "-o", layers, "overlay")
        root = base / "root"
        mount(root / "dev", "--bind", "/dev")
        subprocess.run(["mount", "--make-private", str(root / "dev")], check=True)
        mount(root / "dev/shm", "-t", "tmpfs", "-o", "mode=1777", "tmpfs")
        mount(root / "tmp", "-t", "tmpfs", "tmpfs")
        (root / "tmp").chmod(0o1777)
        mount(root / "run", "-t", "tmpfs", "tmpfs")
        yield CleanMachine(root)
    finally:
        for point in reversed(mounts):
            subprocess.run(["umount", "--lazy", str(point)], check=False)
        with contextlib.suppress(OSError):
            shutil.rmtree(base)
