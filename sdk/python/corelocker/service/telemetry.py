"""What the service says of itself: JSON lines on stderr, and Prometheus metrics.

Neither ever holds a secret. A log line is built from named fields that this package chooses; of an exception it has the
type and the places in the code, never the message, and of other libraries' records where they come from: their texts
may quote a purchase token out of a URL or a parameter of a database statement.

Metrics have label sets that are fixed in the code, whatever clients send. They are added up in memory and written a
few times a second: writing each request's would cost as much as its parsing. Several worker processes share them through
the files of prometheus_client's multi-process mode, which `run.py` switches on before this module is imported.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
import traceback
from bisect import bisect_left
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from typing import Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from corelocker.attestation.verdict import Reason

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MULTIPROCESS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STATUSES = frozenset(
    {200, 201, 204, 400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 429, 431, 499, 500, 502, 503}
)  # 499: the client went away
_OTHER = "other"
_WRITE_SECONDS = 0.25


# --- logs ----------------------------------------------------------------------------------------


# json.dumps makes one anew for every call that has options.
_JSON = json.JSONEncoder(default=str, separators=(",", ":"))


def flat_json(members: Mapping[str, object]) -> str:
    """JSON of a few members without structure, faster than by an encoder that has to be set up for it.

    A value of another kind than JSON has is written as text.
    """
    return (
        "{" + ",".join([f"{encode_basestring_ascii(name)}:{_scalar(value)}" for name, value in members.items()]) + "}"
    )


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if type(value) is int:
        return str(value)
    return "null" if value is None else _JSON.encode(value)


class Log:
    """Writes one JSON object a line; `stream` is stderr if not given."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def write(self, level: str, event: str, **fields: object) -> None:
        """One line with the time, the level, the event and the fields, which the caller answers for."""
        line = {"time": _timestamp(time.time()), "level": level, "event": event, **fields}
        stream = self._stream or sys.stderr
        try:
            # One write a line, so that the lines of several processes do not mix.
            stream.write(flat_json(line) + "\n")
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
        logger.setLevel(logging.WARNING)
        logger.propagate = True


_second: tuple[int, str] = (0, "")


def _timestamp(now: float) -> str:
    global _second
    whole = int(now)
    if _second[0] != whole:
        _second = (whole, datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    return f"{_second[1]}.{int(now % 1 * 1000):03d}Z"


# --- metrics -------------------------------------------------------------------------------------


class Metrics:
    """The counters of one application.

    `routes` and `codes` are all values that the labels of these names can take; anything else counts as `other`.
    """

    def __init__(self, routes: Collection[str], codes: Collection[str]) -> None:
        self.registry = CollectorRegistry()
        self._routes, self._codes = frozenset(routes), frozenset(codes)
        self._requests = Counter(
            "corelocker_requests", "Requests by route and status", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "corelocker_request_seconds",
            "Time from the headers to the end of the answer",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "corelocker_refusals",
            "Requests that were refused, by problem code",
            ["route", "code"],
            registry=self.registry,
        )
        self._attestations = Counter(
            "corelocker_attestation_refusals",
            "Attestations that were refused, by reason",
            ["reason"],
            registry=self.registry,
        )
        self._busy = Gauge(
            "corelocker_requests_in_progress",
            "Requests that are being answered",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        # A labeled child is looked up once: `labels()` is slower than all else that is counted here.
        self._request_children: dict[tuple[str, int], Counter] = {}
        self._seconds_children: dict[str, Histogram] = {}
        # What is not written yet.
        self._lock = threading.Lock()
        self._in_progress = 0
        self._due = False
        self._answered: dict[tuple[str, int], int] = {}
        self._times: dict[str, list[float]] = {}

    @property
    def in_progress(self) -> int:
        """Requests of this process that are being answered."""
        return self._in_progress

    def begin(self) -> None:
        """A request has come."""
        with self._lock:
            self._in_progress += 1
        if not self._due:
            self._write_soon()

    def end(self, route: str, status: int, seconds: float) -> None:
        """A request was answered with this status after this time."""
        route = route if route in self._routes else _OTHER
        key = route, status if status in _STATUSES else 0
        with self._lock:
            self._in_progress -= 1
            self._answered[key] = self._answered.get(key, 0) + 1
            times = self._times.get(route)
            if times is None:
                times = self._times[route] = []
            times.append(seconds)

    def _write_soon(self) -> None:
        try:
            asyncio.get_running_loop().call_later(_WRITE_SECONDS, self._write_on_time)
        except RuntimeError:
            # No event loop: whoever wants the metrics has them written.
            return
        self._due = True

    def _write_on_time(self) -> None:
        self._due = False
        self.write()
        if self._in_progress:
            self._write_soon()

    def write(self) -> None:
        """Write what was added up."""
        with self._lock:
            answered, self._answered = self._answered, {}
            times, self._times = self._times, {}
            self._busy.set(self._in_progress)
        for (route, status), count in answered.items():
            counter = self._request_children.get((route, status))
            if counter is None:
                counter = self._request_children[route, status] = self._requests.labels(route, str(status or _OTHER))
            counter.inc(count)
        for route, seconds in times.items():
            histogram = self._seconds_children.get(route)
            if histogram is None:
                histogram = self._seconds_children[route] = self._seconds.labels(route)
            _observe(histogram, seconds)

    def refused(self, route: str, code: str) -> None:
        """A request was refused with this problem code."""
        route = route if route in self._routes else _OTHER
        self._refusals.labels(route, code if code in self._codes else _OTHER).inc()

    def attestation_refused(self, reason: Reason) -> None:
        """An attestation was refused for this reason, which only the operator gets to know."""
        self._attestations.labels(str(reason)).inc()

    def text(self) -> bytes:
        """The metrics of all worker processes in Prometheus' text format."""
        self.write()
        return generate_latest(self.registry) if MULTIPROCESS_FOLDER not in os.environ else all_workers_text()


def _observe(histogram: Histogram, values: list[float]) -> None:
    """`histogram.observe` for many values at once, which the library has no function for."""
    counts = [0] * (len(_BUCKETS) + 1)
    for value in values:
        counts[bisect_left(_BUCKETS, value)] += 1
    histogram._sum.inc(sum(values))
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)


def all_workers_text() -> bytes:
    """The metrics that the worker processes left in the shared folder."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
