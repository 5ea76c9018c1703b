"""The parent process: forks the workers on one socket, replaces one that dies, serves the metrics of all of them.

SIGHUP reads the configuration anew. If it is sound, workers with it are started, and once they serve, the old ones end:
they take no new connections, answer what comes on those that are open, and close each after its next answer. So no
request is lost. If it is not sound, or its workers do not start, everything stays as it was and the log says why.

Nothing of the service is made before the fork: database connections, HSM sessions and threads do not survive one.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from corelocker.errors import CoreLockerError
from corelocker.service.config import ServiceConfig
from corelocker.service.errors import ServiceRefusesToStartError
from corelocker.service.limits import Limiters
from corelocker.service.logs import Log
from corelocker.service.metrics import MetricsServer, forget_process
from corelocker.service.reloading import reread
from corelocker.service.worker import DRAIN_SIGNAL, TRY_AGAIN, drain_seconds, work

# A worker that dies sooner after its start than this is not replaced at once.
_RESTART_PAUSE = 1.0
# So many workers in a row that lived for less than so many seconds end the service, unless another lives for longer.
_FAILURES = 5
_FAILURE_SECONDS = 10.0
# Beyond the workers' own time to finish what they have begun.
_KILL_SECONDS = 5.0
# New workers have to serve within this time; opening a keystore or a token may take seconds.
_START_SECONDS = 60.0


class Supervisor:
    """Keeps `http.workers` processes on `listener`. SIGTERM and SIGINT are handed on to them, SIGHUP reloads."""

    def __init__(self, config: ServiceConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._limiters = Limiters.of(config)
        self._log = Log()
        # When each was started, and when each that is to end is killed.
        self._workers: dict[BaseProcess, float] = {}
        self._retiring: dict[BaseProcess, float] = {}
        self._cores: dict[BaseProcess, int] = {}
        self._failures = 0
        self._stopping = False
        self._gave_up = False
        self._reloading = False
        self._fork = multiprocessing.get_context("fork")
        self._wake, self._waker = socket.socketpair()

    def run(self) -> None:
        """Serve until a signal. Raises ServiceRefusesToStartError when workers do not live, ConfigError for the metrics' port."""
        self._listen_to_signals()
        for _ in range(self._config.http.workers):
            self._start(self._config, self._limiters)
        metrics = None
        try:
            # After the fork: a thread of the parent would leave its locks behind in the children.
            if self._config.http.metrics_port:
                metrics = MetricsServer(self._config.http.metrics_host, self._config.http.metrics_port)
            name = self._config.http.socket or "{}:{}".format(*self._listener.getsockname()[:2])
            self._log.write("info", "started", address=str(name), workers=self._config.http.workers, pid=os.getpid())
            while not self._stopping:
                self._wait_for_something()
                self._end_retired()
                self._replace_dead()
                if self._reloading and not self._stopping:
                    self._reloading = False
                    self._reload()
        finally:
            self._listener.close()
            self._end_workers()
            if metrics is not None:
                metrics.close()
        self._log.write("info", "stopped", pid=os.getpid())
        if self._gave_up:
            raise ServiceRefusesToStartError("the workers die as soon as they start", hint="The log says why")

    def _listen_to_signals(self) -> None:
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        # A terminal that is closed sends SIGHUP too.
        ends = {signal.SIGHUP} if sys.stdin is not None and sys.stdin.isatty() else set()
        for number in (signal.SIGTERM, signal.SIGINT, *ends):
            signal.signal(number, self._stop)
        if not ends:
            signal.signal(signal.SIGHUP, self._ask_to_reload)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _ask_to_reload(self, *_: object) -> None:
        self._reloading = True

    def _wait_for_something(self) -> None:
        sentinels = [worker.sentinel for worker in (*self._workers, *self._retiring)]
        wait([self._wake, *sentinels], timeout=1 if self._retiring else None)
        with suppress(BlockingIOError):
            self._wake.recv(4096)

    # --- workers

    def _start(self, config: ServiceConfig, limiters: Limiters) -> tuple[BaseProcess, Connection]:
        """A new worker, and what gets a byte once it serves."""
        ready, serves = multiprocessing.Pipe(duplex=False)
        core = self._free_core() if config.http.pin_workers else None
        worker = self._fork.Process(target=work, args=(config, self._listener, limiters, serves, core), daemon=False)
        worker.start()
        serves.close()
        if core is not None:
            self._cores[worker] = core
        self._workers[worker] = time.monotonic()
        return worker, ready

    def _free_core(self) -> int | None:
        """Of those that this process may use, a core that the fewest workers have; None where there is no choosing one."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        self._cores = {worker: core for worker, core in self._cores.items() if worker.exitcode is None}
        taken = Counter(core for worker, core in self._cores.items() if worker in self._workers)
        # By chance among equals: other services of this machine choose too.
        return min(os.sched_getaffinity(0), key=lambda core: (taken[core], random.random()))  # noqa: S311

    def _replace_dead(self) -> None:
        for worker in [worker for worker in self._workers if worker.exitcode is not None]:
            lived = time.monotonic() - self._workers.pop(worker)
            # A database or key service that is away comes back, and the service with it. One that was killed had not failed.
            failed = worker.exitcode != TRY_AGAIN and (worker.exitcode != -signal.SIGKILL or lived < _RESTART_PAUSE)
            if failed:
                self._failures = self._failures + 1 if lived < _FAILURE_SECONDS else 0
            self._log.write("error", "worker-died", pid=worker.pid, exit=worker.exitcode)
            forget_process(worker.pid)
            if failed and self._failures >= _FAILURES and not self._has_lasting_worker():
                self._stopping = self._gave_up = True
            elif not self._stopping:
                time.sleep(_RESTART_PAUSE if lived < _RESTART_PAUSE else 0)
                self._start(self._config, self._limiters)

    def _has_lasting_worker(self) -> bool:
        """Whether a worker serves with what new ones cannot get any more, such as a keystore that was damaged meanwhile."""
        return any(time.monotonic() - started > _FAILURE_SECONDS for started in self._workers.values())

    def _end_retired(self) -> None:
        for worker, until in list(self._retiring.items()):
            if worker.exitcode is None and time.monotonic() > until:
                self._kill(worker)
            if worker.exitcode is not None:
                del self._retiring[worker]
                forget_process(worker.pid)

    def _end_workers(self) -> None:
        workers = [*self._workers, *self._retiring]
        for worker in workers:
            worker.terminate()
        until = time.monotonic() + self._config.http.shutdown_grace + _KILL_SECONDS
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))
            if worker.exitcode is None:
                self._kill(worker)

    def _kill(self, worker: BaseProcess) -> None:
        """A thread of it still waits for a store or the database; its transaction ends as if the power had failed."""
        self._log.write("error", "worker-killed", pid=worker.pid)
        worker.kill()
        worker.join()

    # --- reloading

    def _reload(self) -> None:
        try:
            config = reread(self._config)
        except CoreLockerError as refused:
            self._log.write("error", "reload-refused", code=refused.code, message=str(refused))
            return
        same = (config.http.rate_limit, config.http.total_rate_limit, config.licenses.rate_limit) == (
            self._config.http.rate_limit, self._config.http.total_rate_limit, self._config.licenses.rate_limit,
        )  # fmt: skip
        limiters = self._limiters if same else Limiters.of(config)
        old, self._workers = self._workers, {}
        started = [self._start(config, limiters) for _ in range(config.http.workers)]
        if not self._serve_all(started):
            self._log.write("error", "reload-refused", code="worker-cannot-start")
            for worker in self._workers:
                worker.kill()
                worker.join()
                forget_process(worker.pid)
            self._workers = old
            return
        until = time.monotonic() + drain_seconds(self._config.http) + _KILL_SECONDS
        for worker in old:
            if worker.pid is not None and worker.exitcode is None:
                os.kill(worker.pid, DRAIN_SIGNAL)
            self._retiring[worker] = until
        self._config, self._limiters = config, limiters
        self._log.write("info", "reloaded", workers=config.http.workers, retiring=len(old))

    def _serve_all(self, started: list[tuple[BaseProcess, Connection]]) -> bool:
        """Wait until all of them serve; False when one dies, when it takes too long, or the service is to stop."""
        until = time.monotonic() + _START_SECONDS
        waiting = {ready: worker for worker, ready in started}
        try:
            while waiting and not self._stopping and time.monotonic() < until:
                # A pipe is readable too when its worker has died.
                for ready in wait(list(waiting), timeout=1):
                    assert isinstance(ready, Connection)  # noqa: S101 - of what went in
                    ready.recv_bytes()
                    del waiting[ready]
        except (EOFError, OSError):
            return False
        finally:
            for _, ready in started:
                ready.close()
        return not waiting
