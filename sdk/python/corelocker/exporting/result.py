"""What an export gives back, and how its files are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corelocker.errors import ConfigError, FileAccessError
from corelocker.exporting._steps import step
from corelocker.files import move_into_place, refuse_existing, staging_folder
from corelocker.progress import Progress

SHOWN = 5  # names in a note


@dataclass(frozen=True)
class Exported:
    """Attributes: files: what was written, the model first; notes: sentences for the user, none when all went as asked."""

    files: list[Path]
    notes: list[str]

    @property
    def path(self) -> Path:
        """The model itself: the `.pte` or the `.mlpackage`."""
        return self.files[0]


def kept_float(names: list[str]) -> list[str]:
    """The note that says which weights were not quantized, if any."""
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"not quantized, stays float: {', '.join(names[:SHOWN])}{more}"]


def check_output(out: Path, filename: str, *, force: bool) -> None:
    """Refuse early what would only be refused after minutes of work. Raises ConfigError, OutputExistsError."""
    if out.name != filename:
        raise ConfigError(f"{out} must be named {filename}")
    refuse_existing(out, force=force)


def write_outputs(
    out: Path,
    write: Callable[[Path], None],
    *,
    force: bool,
    progress: Progress,
    check: Callable[[Path], None] = lambda folder: None,
) -> list[Path]:
    """Let `write` fill a scratch folder and `check` look at it, then move all that is in it beside `out`, or nothing.

    Returns the paths, `out` first. Raises OutputExistsError, FileAccessError.
    """
    with staging_folder(out.parent) as folder:
        with step(f"write {out.name}", progress):
            try:
                write(folder)
            except OSError as error:
                raise FileAccessError(f"{out}: cannot be written: {error.strerror or error}") from None
        check(folder)
        made = sorted(folder.iterdir(), key=lambda path: (path.name != out.name, path.name))
        move_into_place(made, out.parent, force=force)
    return [out.parent / path.name for path in made]
