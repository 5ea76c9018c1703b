"""Unlocks a second, end to end over HTTP (a challenge and a license each), beside what the cryptography alone allows.

    .venv/bin/python tools/bench/unlock/bench.py [--seconds 8] [--database sqlite] [--workers 1] [--kinds first,...] [--json]
        [--against CHECKOUT]     the service of another checkout too, in the same run: what a change costs
        [--hosts 2]              several services on one database: what a host brings

Kinds: `first` is an Android key attestation whose attestation key is new (remote provisioning) under intermediates that
other phones share, with a grant; `first-cold` one with nothing but the root in common; `repeat` an unlock with an App
Attest assertion, with the grant of the unlock before; `renew` a renewal in development.

For each, in one run: a closed loop at full load, an open loop (Poisson) at half of it, and before and after them the
bound: the signatures, verifications and key wrapping that the service does for such a request, alone on one core; for
`first` also that of the whole chain, shared intermediates included. "The checks alone"
are the service's own functions around them, with all parsing, but without HTTP and database. Requests come from
processes of their own on the same machine. "A core" is a second of processor time of the service's processes, which the
load generators beside them cannot take away; with PostgreSQL the database's own time is not in it. The wall-clock rate
is given too. Latency counts from when the request was due, and is that of both requests together.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent))

from phones import APPLE_APP, PACKAGE, ROOT, forge

# isort: split
from bounds import SINGLE_USE, bound, checks_bound
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from load import Generators, processor_seconds
from support.postgres import PostgresServer
from support.unlock_world import ServiceProcess, World, free_port

KINDS = ("first", "first-cold", "repeat", "renew")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def measure(
    kind: str,
    world: World,
    services: Mapping[int, ServiceProcess],
    options: argparse.Namespace,
    workers: int,
) -> dict[str, Any]:
    """`services` by port; `workers` are those of all of them."""
    load = Generators(kind, world, [*services], max(options.generators, len(services)))
    before, checks = bound(kind), checks_bound(kind, world)
    # Enough phones that an unlock rarely meets its own purchase's row; single-use ones for the whole run.
    guess = 1500 * options.seconds * workers if kind in SINGLE_USE else 200
    load.do("make", int(guess / len(load)) + 1)
    load.do("closed", 1.0, 2)  # warm
    load.do("make", int(guess / len(load)) + 1)
    pids = [service.process.pid for service in services.values()]
    clients = max(1, options.clients * workers // len(load))
    processor, start, loading = sum(map(processor_seconds, pids)), time.perf_counter(), load.processor_seconds()
    full = load.do("closed", options.seconds, clients)
    wall, processor = time.perf_counter() - start, sum(map(processor_seconds, pids)) - processor
    # A generator that needs all of its core would measure itself.
    busiest = max((now - then) / wall for now, then in zip(load.processor_seconds(), loading, strict=True))
    rate = len(full.latencies) / wall
    load.do("make", int(guess / len(load)) + 1)
    half = load.do("open", options.seconds, rate / 2 / len(load))
    after = bound(kind)
    load.do("end")
    per_core = len(full.latencies) / processor
    limit = (before + after) / 2
    chain = bound("first-cold") if kind == "first" else limit
    return {
        "kind": kind,
        "workers": workers,
        "unlocks_per_second": rate,
        "unlocks_per_core_second": per_core,
        "cores_busy": processor / wall,
        "busiest_generator": busiest,
        "bound_per_core_second": limit,
        "bound_spread": abs(before - after) / limit,
        "ratio_to_bound": per_core / limit,
        "chain_bound_per_core_second": chain,
        "ratio_to_chain_bound": per_core / chain,
        "checks_per_core_second": checks,
        "ratio_to_checks": per_core / checks,
        "full_p50_ms": percentile(full.latencies, 0.5) * 1000,
        "full_p95_ms": percentile(full.latencies, 0.95) * 1000,
        "full_slowest_ms": max(full.latencies, default=float("nan")) * 1000,
        "half_slowest_ms": max(half.latencies, default=float("nan")) * 1000,
        # Another load on the machine: the bound moved in between, or the service was not given its cores, or enough to do.
        "noisy": abs(before - after) / limit > 0.1
        or processor / wall < 0.8 * min(workers, os.cpu_count() or 1)
        or busiest > 0.9,
        "half_p50_ms": percentile(half.latencies, 0.5) * 1000,
        "half_p95_ms": percentile(half.latencies, 0.95) * 1000,
        "failures": {**full.failures, **half.failures},
    }


SETTINGS = f"""
[attestation]
revocation_list = "revocation.json"
[apps.android]
package = "{PACKAGE}"
signer_digests = ["{forge.SIGNER.hex()}"]
roots = ["android-root.pem"]
[apps.apple]
app_id = "{APPLE_APP}"
environment = "development"
roots = ["apple-root.pem"]
"""


def bench_world(folder: Path, database_url: str, http: str, workers: int) -> World:
    """A service's folder that takes all kinds of the benchmark."""
    for name, key in (("android-root.pem", forge.ROOT_KEY), ("apple-root.pem", forge.APPLE_ROOT_KEY)):
        (folder / name).write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "revocation.json").write_text('{"entries": {}}')
    world = World(folder, database_url)
    path = world.configure(workers=workers)
    # Tables of an app belong behind it, and the products come after it.
    text = path.read_text().replace("[[products]]", SETTINGS.replace("[attestation]\n", "") + "[[products]]", 1)
    text = text.replace('revocation_list = "revocation.json"\n', "", 1)
    text += '[attestation]\nrevocation_list = "revocation.json"\n'
    path.write_text(text.replace("rate_limit = 0\n", f"rate_limit = 0\nmax_pending = 2000\n{http}\n"))
    return world


def run(
    kind: str, server: PostgresServer | None, checkout: Path | None, options: argparse.Namespace, workers: int
) -> dict[str, Any]:
    """Measure the service of this checkout, or of another one, on an empty database."""
    with tempfile.TemporaryDirectory(prefix="corelocker-bench-") as scratch:
        folder = Path(scratch)
        url = server.new_database() if server else f"sqlite:///{folder / 'unlock.sqlite'}"
        world = bench_world(folder, url, options.http, workers)
        config = world.config_path
        if checkout:
            config = folder / "other.toml"
            text = world.config_path.read_text().replace(options.http, options.against_http)
            config.write_text(
                "".join(line for line in text.splitlines(True) if line.strip() not in options.against_without)
            )
        ours = str(ROOT / "sdk/python")
        os.environ["PYTHONPATH"] = str(checkout / "sdk/python") if checkout else ours
        try:
            migrate(config)
            with ExitStack() as stack:
                services = {world.port: stack.enter_context(world.start(config))}
                for _ in range(1, options.hosts):
                    port = free_port()
                    services[port] = stack.enter_context(world.start(another_host(world, port)))
                measured = measure(kind, world, services, options, workers * options.hosts)
                return measured | {"service": str(checkout or "this"), "hosts": options.hosts}
        finally:
            os.environ["PYTHONPATH"] = ours


def another_host(world: World, port: int) -> Path:
    """The configuration of a service with files of its own, on the same database."""
    config = world.another_host(port)
    for name in ("android-root.pem", "apple-root.pem", "revocation.json"):
        shutil.copy2(world.folder / name, config.parent / name)
    return config


def migrate(config: Path) -> None:
    """What an operator does before the first start; by the code that is measured."""
    command = [sys.executable, "-m", "corelocker", "service", "migrate", "--config", str(config)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def show(result: dict[str, Any], out: TextIO) -> None:
    goal = (
        f"{result['ratio_to_bound']:4.0%} of the bound {result['bound_per_core_second']:5.0f}"
        f" ({result['ratio_to_chain_bound']:.0%} of the whole chain's {result['chain_bound_per_core_second']:.0f})"
        f"  {result['ratio_to_checks']:4.0%} of the checks alone {result['checks_per_core_second']:5.0f}"
    )
    latency = "  ".join(
        f"{name} load p50/p95 {result[f'{name}_p50_ms']:.1f}/{result[f'{name}_p95_ms']:.1f} ms"
        for name in ("full", "half")
    )
    remarks = ["NOISY"] if result["noisy"] else []
    remarks += [f"FAILURES {result['failures']}"] if result["failures"] else []
    print(
        f"{result['service']:12} {result['database']:10} {result['kind']:10}"
        f" {result['workers']} worker(s) on {result['hosts']} host(s)"
        f"  {result['unlocks_per_second']:5.0f}/s"
        f"  {result['unlocks_per_core_second']:5.0f}/s a core  {goal}  {latency}  {result['cores_busy']:.1f} cores busy ",
        *remarks,
        file=out,
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--workers", default=f"1,{os.cpu_count()}", help="numbers of worker processes, with commas")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--hosts", type=int, default=1, help="services with files of their own on one PostgreSQL")
    parser.add_argument("--http", default="threads = 8", help="settings of [http]")
    parser.add_argument("--against", type=Path, help="a checkout whose service is measured too, before this one's")
    parser.add_argument("--against-http", default="threads = 8", help="settings of [http] there")
    parser.add_argument(
        "--against-without",
        action="append",
        default=[],
        metavar="LINE",
        help="a line of service.toml to leave out there",
    )
    parser.add_argument("--clients", type=int, default=8, help="clients of the closed loop for each worker")
    parser.add_argument("--generators", type=int, default=2, help="processes that make the load")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.hosts > 1 and (options.database != "postgresql" or options.against):
        parser.error("several hosts share a PostgreSQL, and are compared with nothing")
    databases = ("sqlite", "postgresql") if options.database == "both" else (options.database,)
    results = []
    for database in databases:
        server = PostgresServer(durable=True) if database == "postgresql" else None
        try:
            for workers in map(int, options.workers.split(",")):
                for kind in options.kinds.split(","):
                    for checkout in (options.against, None) if options.against else (None,):
                        result = run(kind, server, checkout, options, workers) | {"database": database}
                        results.append(result)
                        show(result, sys.stderr if options.json else sys.stdout)
        finally:
            if server is not None:
                server.stop()
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "load_average": os.getloadavg(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
