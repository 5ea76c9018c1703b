"""What every step of an export shares: optional imports, silence, and one kind of error."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partialmethod
from types import ModuleType
from typing import Any, TextIO

from corelocker.errors import CoreLockerError, ExportError, MissingExtraError
from corelocker.factories import short
from corelocker.progress import Progress, no_progress

MAX_HELD = 1 << 16  # characters


def need(module: str) -> ModuleType:
    """Import an optional dependency. Raises MissingExtraError when it is not installed or cannot be loaded."""
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"exporting needs {package}, which cannot be imported ({short(error)})",
            hint="pip install 'corelocker[export]'",
        ) from None


@contextmanager
def step(name: str, progress: Progress = no_progress) -> Iterator[_Muted]:
    """One step of an export, silent as `quiet` is: whatever goes wrong in it becomes an ExportError that names it."""
    progress(name, 0, 1)
    try:
        with quiet() as held:
            yield held
    except CoreLockerError:
        raise
    except (Exception, SystemExit) as error:
        raise ExportError(f"{name}: {short(error)}") from error
    progress(name, 1, 1)


@contextmanager
def quiet() -> Iterator[_Muted]:
    """Hold back what torch, ExecuTorch and coremltools log, warn and draw while they work; exceptions pass.

    What other threads write still gets through: the caller may be drawing its own progress. The value has the `lines` that
    were held back from standard error.
    """
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    out, held = _Muted(sys.stdout), _Muted(sys.stderr)
    logging.disable(logging.ERROR)  # what matters comes as an exception too
    try:
        with warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(held), _no_bars():
            warnings.simplefilter("ignore")
            yield held
    finally:
        out.open = held.open = True  # a logger made meanwhile has kept the stream
        logging.disable(disabled)
        root.handlers[:] = handlers  # ExecuTorch's XNNPACK module installs one on import


class _Muted(io.TextIOBase):
    """A stream that keeps what the thread that made it writes to itself, until it is opened."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()
        self._held = ""
        self.open = False

    def write(self, text: str) -> int:
        if self.open or threading.get_ident() != self._thread:
            return self._stream.write(text)
        self._held = (self._held + text)[:MAX_HELD]
        return len(text)

    @property
    def lines(self) -> list[str]:
        """What was kept, without empty lines."""
        return [line.strip() for line in self._held.splitlines() if line.strip()]

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Switch tqdm off: coremltools has no option for it, and tqdm reads its environment only when first imported."""
    try:
        tqdm = importlib.import_module("tqdm.std").tqdm
    except ImportError:
        yield
        return
    original = tqdm.__init__
    tqdm.__init__ = partialmethod(original, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = original
