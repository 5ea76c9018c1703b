"""The exported programs that tests read.

An export takes seconds of a processor, so the bytes of those that tests use are kept in `tests/data/exports`, with a digest of
everything that they depend on: the networks, how they are lowered, and the pinned exporters. Where that digest is another one the
exporters run again, and `.cache/exports` keeps what they make. `make exports` makes `tests/data/exports` anew; a test compares
what is kept with what the exporters make.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import shutil
import tempfile
from pathlib import Path

from support.models import lowering, nets

ROOT = Path(__file__).resolve().parents[4]
KEPT = ROOT / "tests" / "data" / "exports"
CACHE = ROOT / ".cache" / "exports"
DIGEST = KEPT / "digest.txt"


def exported(name: str, variant: str) -> Path:
    """The file `<name>.pte` of one variant (see `lowering.VARIANTS`), external weights beside it as `<name>.ptd`."""
    kept = KEPT / f"{name}-{variant}" / f"{name}.pte"
    if kept.exists() and is_current():
        return kept
    folder = CACHE / f"{name}-{variant}-{digest()}"
    if not folder.exists():
        _write(folder, name, lowering.VARIANTS[variant](name))
        for old in folder.parent.glob(f"{name}-{variant}-{'[0-9a-f]' * 16}"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
    return folder / f"{name}.pte"


def kept_exports() -> list[tuple[str, str]]:
    """(name, variant) of what is kept."""
    return [(name, variant) for name, _, variant in sorted(p.name.partition("-") for p in KEPT.iterdir() if p.is_dir())]


def is_current() -> bool:
    """Whether what is kept was made by these networks, this lowering and these exporters."""
    return DIGEST.exists() and DIGEST.read_text().strip() == digest()


@functools.cache
def digest() -> str:
    """Of everything that an export depends on, 16 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for package in ("torch", "executorch", "torchao"):
        sha256.update(importlib.metadata.version(package).partition("+")[0].encode())  # "+cpu" exports the same
    for source in (nets.__file__, lowering.__file__):
        sha256.update(Path(source).read_bytes())
    return sha256.hexdigest()[:16]


def _write(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """All files or none: several test processes may make the same export."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        for suffix, content in files.items():
            (new / f"{name}{suffix}").write_bytes(content)
        try:
            new.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def main() -> None:
    """Make everything that is kept anew."""
    for name, variant in kept_exports():
        print(f"{name}-{variant}")
        shutil.rmtree(KEPT / f"{name}-{variant}")
        _write(KEPT / f"{name}-{variant}", name, lowering.VARIANTS[variant](name))
    DIGEST.write_text(f"{digest()}\n")


if __name__ == "__main__":
    main()
