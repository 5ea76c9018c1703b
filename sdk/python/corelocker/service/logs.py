"""The service's log: JSON lines on stderr.

A line never holds a secret. It is built from named fields that this package chooses; of an exception it has the type and
the places in the code, never the message, and of other libraries' records where they come from: their texts may quote a
purchase token out of a URL or a parameter of a database statement.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

# json.dumps makes an encoder anew for every call that has options.
_encode = json.JSONEncoder(default=str, separators=(",", ":")).encode


class Log:
    """Writes one JSON object a line; `stream` is stderr if not given."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def write(self, level: str, event: str, **fields: object) -> None:
        """One line with the time, the level, the event and the fields, which the caller answers for."""
        line = {"time": _timestamp(), "level": level, "event": event, **fields}
        stream = self._stream or sys.stderr
        try:
            # One write a line, so that the lines of several processes do not mix.
            stream.write(_encode(line) + "\n")
            stream.flush()
        except (OSError, ValueError):
            # A log that cannot be written must not stop licenses.
            pass

    def failure(self, event: str, error: BaseException, **fields: object) -> None:
        """An exception that nobody expected: its type and where it came from."""
        self.write("error", event, **fields, **describe_exception(error))


def describe_exception(error: BaseException) -> dict[str, object]:
    """The type of the exception and of its causes, and the places in the code; not the messages."""
    kinds: list[str] = []
    link: BaseException | None = error
    while link is not None and len(kinds) < 8:
        kinds.append(f"{type(link).__module__}.{type(link).__qualname__}")
        link = link.__cause__ or link.__context__
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    places = [f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
    return {"exception": kinds, "at": places}


class _JsonHandler(logging.Handler):
    """Turns other libraries' log records into our lines."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"logger": record.name, "from": f"{record.filename}:{record.lineno}"}
        # Others put values into the text itself; uvicorn's are templates.
        if record.name.startswith("uvicorn") and isinstance(record.msg, str):
            fields["text"] = record.msg.strip()[:200]
        if record.exc_info and record.exc_info[1] is not None:
            fields |= describe_exception(record.exc_info[1])
        self._log.write(record.levelname.lower(), "library", **fields)


def take_over_logging(log: Log) -> None:
    """Send the records of all libraries, from warnings on, through `log`."""
    root = logging.getLogger()
    root.handlers[:] = [_JsonHandler(log)]
    root.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        # Its warnings are about requests that are no HTTP; `connections` writes a line for each.
        logger.setLevel(logging.ERROR)
        logger.propagate = True


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
