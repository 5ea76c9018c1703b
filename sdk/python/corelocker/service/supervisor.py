"""The parent process: forks the workers on one socket, replaces one that dies, serves the metrics of all of them.

Nothing of the service is made before the fork: database connections, HSM sessions and threads do not survive one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from corelocker.service.config import ServiceConfig
from corelocker.service.errors import ServiceRefusesToStartError
from corelocker.service.limits import Limiters
from corelocker.service.logs import Log
from corelocker.service.metrics import MetricsServer, forget_process
from corelocker.service.worker import work

# A worker that dies sooner after its start than this is not replaced at once.
_RESTART_PAUSE = 1.0
# So many workers in a row that lived for less than so many seconds end the service.
_FAILURES = 5
_FAILURE_SECONDS = 10.0
# Beyond the workers' own time to finish what they have begun.
_KILL_SECONDS = 5.0


class Supervisor:
    """Keeps `http.workers` processes on `listener`. SIGTERM and SIGINT are handed on to them."""

    def __init__(self, config: ServiceConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._limiters = Limiters.of(config)
        self._log = Log()
        self._workers: dict[BaseProcess, float] = {}
        self._failures = 0
        self._stopping = False
        self._fork = multiprocessing.get_context("fork")

    def run(self) -> None:
        """Serve until a signal. Raises ServiceRefusesToStartError when workers do not live, ConfigError for the metrics' port."""
        wake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for _ in range(self._config.http.workers):
            self._start()
        metrics = None
        try:
            # After the fork: a thread of the parent would leave its locks behind in the children.
            if self._config.http.metrics_port:
                metrics = MetricsServer(self._config.http.metrics_host, self._config.http.metrics_port)
            name = self._config.http.socket or "{}:{}".format(*self._listener.getsockname()[:2])
            self._log.write("info", "started", address=str(name), workers=self._config.http.workers, pid=os.getpid())
            while not self._stopping:
                wait([wake, *(worker.sentinel for worker in self._workers)])
                self._replace_dead()
        finally:
            self._listener.close()
            self._end_workers()
            if metrics is not None:
                metrics.close()
        self._log.write("info", "stopped", pid=os.getpid())
        if self._failures >= _FAILURES:
            raise ServiceRefusesToStartError("the workers die as soon as they start", hint="The log says why")

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self) -> None:
        worker = self._fork.Process(target=work, args=(self._config, self._listener, self._limiters), daemon=False)
        worker.start()
        self._workers[worker] = time.monotonic()

    def _replace_dead(self) -> None:
        for worker in [worker for worker in self._workers if worker.exitcode is not None]:
            lived = time.monotonic() - self._workers.pop(worker)
            self._failures = self._failures + 1 if lived < _FAILURE_SECONDS else 0
            self._log.write("error", "worker-died", pid=worker.pid, exit=worker.exitcode)
            forget_process(worker.pid)
            if self._failures >= _FAILURES:
                self._stopping = True
            elif not self._stopping:
                time.sleep(_RESTART_PAUSE if lived < _RESTART_PAUSE else 0)
                self._start()

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        until = time.monotonic() + self._config.http.shutdown_grace + _KILL_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
            if worker.exitcode is None:
                # A thread of it still waits for a store or the database; its transaction ends as if the power had failed.
                self._log.write("error", "worker-killed", pid=worker.pid)
                worker.kill()
                worker.join()
