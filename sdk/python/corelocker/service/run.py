"""Runs the service: refuses what `check_config` refuses, opens the socket, and leaves the rest to `Supervisor`."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from corelocker.core_dumps import no_core_dumps
from corelocker.errors import ConfigError
from corelocker.service.checks import OTHER_FILES, check_config
from corelocker.service.config import HttpConfig, ServiceConfig
from corelocker.service.epoch import Epoch
from corelocker.service.errors import ServiceRefusesToStartError
from corelocker.service.storage import Storage

BACKLOG = 2048
# What the kernel keeps of answers that a client has not read, on each connection; it doubles the number.
_SEND_BUFFER = 64 << 10


def serve(config: ServiceConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises ServiceRefusesToStartError for a configuration that is not safe, StorageError when the database cannot be used,
    DatabaseRolledBackError when it is an older copy, EpochFileError, ConfigError when the address cannot be had.
    """
    findings = check_config(config)
    for finding in findings:
        print(f"{finding.level}: {finding.message} [{finding.code}]", file=sys.stderr)
        if finding.hint:
            print(f"  {finding.hint}", file=sys.stderr)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise ServiceRefusesToStartError(f"the configuration has {len(errors)} errors", hint="They are listed above")
    # Said once, before there are workers that die of it; the connections are closed before the fork.
    with closing(Storage.open(config.database_url, migrate=config.sqlite_path is not None)) as storage:
        Epoch.of(config, storage).advance()
    no_core_dumps()
    raise_file_limit(config.http)
    listener = listen(config.http)
    metrics_folder = Path(tempfile.mkdtemp(prefix="corelocker-metrics-"))
    try:
        # prometheus_client reads it when it is imported, so whatever imports it comes after this.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folder)
        from corelocker.service.supervisor import Supervisor

        Supervisor(config, listener).run()
    finally:
        listener.close()
        shutil.rmtree(metrics_folder, ignore_errors=True)


def raise_file_limit(http: HttpConfig) -> bool:
    """Let each process open as many files as it may have connections, as far as the system lets us; whether it does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = http.max_connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return False
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True


def listen(http: HttpConfig) -> socket.socket:
    """The listening socket. Raises ConfigError when the address cannot be had."""
    try:
        if http.socket is not None:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # A socket file that nobody listens on any more is in the way; one that is in use is not ours to remove.
            if http.socket.is_socket() and listener.connect_ex(str(http.socket)) != 0:
                http.socket.unlink()
                listener.close()
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(http.socket))
            os.chmod(http.socket, 0o660)
            listener.listen(BACKLOG)
        else:
            family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
            listener = socket.create_server((http.host, http.port), family=family, backlog=BACKLOG)
            # Connections inherit it. An answer is written in two pieces, and the second must not wait for an acknowledgement.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if sys.platform == "linux":
                # RFC 5482: a client that is gone, or reads nothing, is given up after the time that a request has.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, http.request_timeout * 1000)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    except OSError as error:
        address = http.socket or f"{http.host}:{http.port}"
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener
