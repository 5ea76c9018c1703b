"""What every step of an export shares: optional imports, silence, and one kind of error."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partialmethod
from types import ModuleType
from typing import Any, TextIO

from corelocker.errors import CoreLockerError, ExportError, MissingExtraError

Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and how much there is."""

MAX_HELD = 1 << 16  # bytes
MESSAGE = 240  # characters of another library's message that an error repeats


def no_progress(step: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


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
def step(name: str, progress: Progress = no_progress) -> Iterator[None]:
    """One step of an export, silent: whatever goes wrong in it becomes an ExportError that names it."""
    progress(name, 0, 1)
    try:
        with quiet():
            yield
    except CoreLockerError:
        raise
    except (Exception, SystemExit) as error:
        raise ExportError(f"{name}: {short(error)}") from error
    progress(name, 1, 1)


def short(error: BaseException) -> str:
    """The kind of an exception and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = lines[0] if len(lines[0]) <= MESSAGE else f"{lines[0][:MESSAGE]}..."
    return f"{type(error).__name__}: {text}"


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what torch, ExecuTorch and coremltools log, warn and draw while they work; exceptions pass.

    What other threads write still gets through: the caller may be drawing its own progress.
    """
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    logging.disable(logging.ERROR)  # what matters comes as an exception too
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(_Muted(sys.stdout)),
            redirect_stderr(_Muted(sys.stderr)),
            _no_bars(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # ExecuTorch's XNNPACK module installs one on import


class _Muted(io.TextIOBase):
    """A stream that forgets what the thread that made it writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def native_messages() -> Iterator[Callable[[], list[str]]]:
    """Hold back what C++ code writes to standard error; call the value for its lines so far."""
    with tempfile.TemporaryFile() as held:

        def lines() -> list[str]:
            held.seek(0)
            text = held.read(MAX_HELD).decode(errors="replace")
            return [line.strip() for line in text.splitlines() if line.strip() and "cpuinfo" not in line]

        sys.stderr.flush()
        terminal = os.dup(2)
        try:
            os.dup2(held.fileno(), 2)
            yield lines
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


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
