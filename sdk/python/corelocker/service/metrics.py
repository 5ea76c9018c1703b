"""Prometheus metrics. Their label sets are fixed in the code, whatever clients send.

Several worker processes share them through the files of prometheus_client's multi-process mode, which `run` switches on
before prometheus_client is imported.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from corelocker.attestation.verdict import Reason
from corelocker.errors import ConfigError

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What one application counts, in `registry`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "corelocker_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "corelocker_request_seconds",
            "Time from the headers to the end of the answer",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._refusals = Counter(
            "corelocker_refusals", "Requests that were refused, by problem code", ["route", "code"], registry=registry
        )
        self._attestations = Counter(
            "corelocker_attestation_refusals",
            "Attestations that were refused, by reason",
            ["reason"],
            registry=registry,
        )
        self._in_progress = Gauge(
            "corelocker_requests_in_progress",
            "Requests that are being answered",
            registry=registry,
            multiprocess_mode="livesum",
        )

        self._connections = Gauge(
            "corelocker_connections",
            "Connections that are open",
            registry=registry,
            multiprocess_mode="livesum",
        )

        # Looking a label set up takes as long as counting.
        self._ended = lru_cache(maxsize=256)(
            lambda route, status: (self._requests.labels(route, str(status)), self._seconds.labels(route))
        )

    def connected(self) -> None:
        """A connection was opened."""
        self._connections.inc()

    def disconnected(self) -> None:
        """It was closed."""
        self._connections.dec()

    def begin(self) -> None:
        """A request has come."""
        self._in_progress.inc()

    def end(self, route: str, status: int, seconds: float) -> None:
        """A request was answered with this status after this time; 499: its client went away."""
        self._in_progress.dec()
        requests, duration = self._ended(route, status)
        requests.inc()
        duration.observe(seconds)

    def refused(self, route: str, code: str) -> None:
        """A request was refused with this problem code."""
        self._refusals.labels(route, code).inc()

    def attestation_refused(self, reason: Reason) -> None:
        """An attestation was refused for this reason, which only the operator gets to know."""
        self._attestations.labels(str(reason)).inc()


class MetricsServer:
    """Serves the metrics of all worker processes on a port of its own. Raises ConfigError when it cannot be had."""

    def __init__(self, host: str, port: int) -> None:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(f"cannot serve metrics on {host}:{port}: {error.strerror or error}") from None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def forget_process(pid: int | None) -> None:
    """Take the gauges of a worker process that has ended out of the sums."""
    if pid is not None:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
