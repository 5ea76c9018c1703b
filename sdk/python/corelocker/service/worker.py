"""A worker process: the service and its HTTP server.

A worker that is told to stop closes the socket, answers what it has begun and refuses the rest. What takes longer than
`shutdown_grace` is cut off, which loses nothing, because a decision is one database transaction. One that is to make
room for another (`DRAIN_SIGNAL`) also answers what still comes on its open connections, and closes each after that.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection as Pipe

from corelocker.errors import CoreLockerError, KeystoreAwayError
from corelocker.licensing.errors import NotReadyError, StorageError
from corelocker.service.config import HttpConfig, ServiceConfig
from corelocker.service.connections import KEEP_ALIVE_SECONDS, make_server
from corelocker.service.core import UnlockService
from corelocker.service.epoch import Epoch
from corelocker.service.http import create_app
from corelocker.service.keys import open_keys
from corelocker.service.limits import Limiters
from corelocker.service.logs import Log, take_over_logging
from corelocker.service.metrics import Metrics
from corelocker.service.shared_limits import SharedLimits
from corelocker.service.storage import Storage

DRAIN_SIGNAL = signal.SIGUSR1
TRY_AGAIN = os.EX_TEMPFAIL
_MAINTENANCE_SECONDS = 30
_SHARE_SECONDS = 1
_COLLECT_EVERY = 20_000  # objects


def drain_seconds(http: HttpConfig) -> float:
    """How long a worker that makes room may take: until an idle connection would have been closed anyhow."""
    return KEEP_ALIVE_SECONDS + http.shutdown_grace


def work(
    config: ServiceConfig, listener: socket.socket, limiters: Limiters, serves: Pipe, core: int | None = None
) -> None:
    """The body of a worker process. `serves` gets a byte when it serves.

    When the service cannot be made it ends with status 1, or TRY_AGAIN when that may pass.

    All its threads stay on `core`. The interpreter runs one of them at a time, and handing over to one on another core
    takes as long as everything else together (tools/bench/unlock).
    """
    if core is not None:
        os.sched_setaffinity(0, {core})
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        # While the server runs it has handlers of its own, and calls these when it has stopped.
        signal.signal(number, lambda *_: sys.exit(0))
    for number in (signal.SIGHUP, DRAIN_SIGNAL):
        signal.signal(number, signal.SIG_IGN)
    grace = config.http.shutdown_grace
    threading.Thread(target=_end_with_parent, args=(grace,), name="parent", daemon=True).start()
    log = Log()
    take_over_logging(log)
    try:
        _serve(config, listener, limiters, log, serves)
    except CoreLockerError as error:
        log.write("error", "worker-cannot-start", code=error.code, message=str(error))
        sys.exit(TRY_AGAIN if isinstance(error, StorageError | KeystoreAwayError | NotReadyError) else 1)
    except Exception as error:
        log.failure("worker-failed", error)
        sys.exit(1)


def _serve(config: ServiceConfig, listener: socket.socket, limiters: Limiters, log: Log, serves: Pipe) -> None:
    storage = Storage.open(config.database_url, pool_size=max(8, config.http.threads))
    ended = threading.Event()
    try:
        service = UnlockService(config, storage, open_keys(config.keys), limiter=limiters.purchases)
        metrics = Metrics()
        app = create_app(service, config, log=log, metrics=metrics, limiter=limiters.clients)
        server = make_server(app, config.http, log, metrics, started=lambda: serves.send_bytes(b"1"))
        _collect_seldom()
        signal.signal(DRAIN_SIGNAL, lambda *_: server.drain(drain_seconds(config.http)))
        shared = SharedLimits(storage, vars(limiters))
        arguments = (service, Epoch.of(config, storage), shared, log, ended)
        threading.Thread(target=_maintain, args=arguments, name="maintenance", daemon=True).start()
        if storage.shared:
            threading.Thread(target=_share_limits, args=(shared, log, ended), name="limits", daemon=True).start()
        server.run(sockets=[listener])
    finally:
        ended.set()
        storage.close()


def _collect_seldom() -> None:
    """Reference cycles are rare here: they need not be looked for every 700 objects, nor in what the start has made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


def _maintain(service: UnlockService, epoch: Epoch, shared: SharedLimits, log: Log, ended: threading.Event) -> None:
    while not ended.wait(_MAINTENANCE_SECONDS):
        try:
            epoch.advance()
        except CoreLockerError as refused:
            log.failure("epoch", refused, code=refused.code)
        try:
            for error in service.maintenance.run():
                log.failure("maintenance", error, code=error.code)
            shared.forget()
        except Exception as error:
            log.failure("maintenance", error)


def _share_limits(shared: SharedLimits, log: Log, ended: threading.Event) -> None:
    pause = _SHARE_SECONDS
    while not ended.wait(pause):
        try:
            shared.share()
            pause = _SHARE_SECONDS
        except Exception as error:
            # Each host limits by itself meanwhile.
            log.failure("limits-not-shared", error)
            pause = _MAINTENANCE_SECONDS


def _end_with_parent(grace: int) -> None:
    """Stop when the parent was killed: nobody would hand signals on, and the address would stay taken."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        # Where the parent lives, it does this.
        time.sleep(grace + 5)
        os.kill(os.getpid(), signal.SIGKILL)
