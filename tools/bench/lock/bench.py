"""How long `corelocker lock` takes, as a multiple of one hashlib SHA-256 pass over the same file in the same run.

A plain copy of the file is timed beside it: a lock writes as much, so on a machine whose disk or fresh memory is slow (a virtual
machine, often) no lock can come below that.

    .venv/bin/python tools/bench/lock/bench.py [--runs 5] [--json]

The keystore is protected by a key file, as in a build pipeline, and in turn by a passphrase: scrypt takes a quarter of a second
of one core beside the rest, however small the file is.

The default lock is timed (the signs of all weights), and one of 5 % by value beside it, without running the files. Processor time
(of all threads) stands beside the time by the clock, in passes too: on a machine that is busy with something else it says more.
Memory is the peak resident set of the command's process, mapped pages included. That of `verify --full` and `restore` is taken with
a file of 2 GB under the default lock, whose patch touches every page. Models are made once under .cache/bench, 4 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "bench"
COMMAND = [sys.executable, "-m", "corelocker"]
# What is timed: the keystore's protection, and options of the lock.
LOCKS: dict[str, tuple[str, list[str]]] = {
    "default": ("kek", []),
    "with a passphrase": ("passphrase", []),
    "5 % by value": ("kek", ["--tiers", "free=0.05,full=0"]),
}


def checkpoint(path: Path, megabytes: int) -> Path:
    """A language-model-like checkpoint: square and wide matrices, float32."""
    if path.exists():
        return path
    shapes = []
    while sum(4 * a * b for _, a, b in shapes) < megabytes << 20:
        block = len(shapes) // 7
        shapes += [
            (f"layers.{block}.{name}.weight", rows, columns)
            for name, rows, columns in [
                *((n, 2048, 2048) for n in ("q", "k", "v", "o")),
                ("up", 5504, 2048), ("gate", 5504, 2048), ("down", 2048, 5504),
            ]
        ]  # fmt: skip
    header, offset = {}, 0
    for name, rows, columns in shapes:
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [offset, offset + 4 * rows * columns]}
        offset += 4 * rows * columns
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(0)
    with path.with_suffix(".part").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, rows, columns in shapes:
            file.write((generator.standard_normal((rows, columns), np.float32) * 0.02).data)
    return path.with_suffix(".part").rename(path)


def program(path: Path, layers: int, width: int) -> Path:
    """An XNNPACK program of linear layers, 4 * layers * width^2 bytes of weights."""
    if not path.exists():
        code = f"""
import torch
from executorch.exir import to_edge_transform_and_lower
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
model = torch.nn.Sequential(*(m for _ in range({layers}) for m in (torch.nn.Linear({width}, {width}), torch.nn.ReLU()))).eval()
exported = torch.export.export(model, (torch.zeros(1, {width}),))
program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
with open({str(path)!r}, "wb") as file:
    program.write_to_file(file)
"""
        subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return path


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Seconds by the clock and of processor time, and peak megabytes of a command, in a process of its own."""
    script = (
        "import resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, *command], check=True, capture_output=True, text=True, env=environment
    )
    seconds, processor, peak = done.stdout.split()
    return float(seconds), float(processor), float(peak)


def sha256_seconds(path: Path) -> tuple[float, float]:
    """Seconds by the clock and of processor time."""
    start, processor = time.perf_counter(), time.process_time()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    return time.perf_counter() - start, time.process_time() - processor


def bench_lock(path: Path, runs: int, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """Lock and hash in turn, so that both see the same machine; the copies come last, or the locks would wait for their writes."""
    hashing, copying, peaks = [], [], []
    locking: dict[str, list[tuple[float, float]]] = {name: [] for name in LOCKS}
    out, copy = folder / "out", folder / "copy"
    for _ in range(runs):
        hashing.append(sha256_seconds(path))
        for name, (secret, options) in LOCKS.items():
            os.sync()  # what the run before has deleted is discarded now, and not while this one writes
            *seconds, peak = measured(lock_command(path, out, folder / f"{secret}.json", options), environment)
            locking[name].append((seconds[0], seconds[1]))
            peaks.append(peak)
            shutil.rmtree(out)
    for _ in range(runs):
        start = time.perf_counter()
        shutil.copyfile(path, copy)
        copying.append(time.perf_counter() - start)
        copy.unlink()
    plain = statistics.median(copying)
    sha, sha_processor = (statistics.median(seconds) for seconds in zip(*hashing, strict=True))
    took = {name: [statistics.median(s) for s in zip(*seconds, strict=True)] for name, seconds in locking.items()}
    return {
        "file": path.name,
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "sha256_s": round(sha, 3),
        "copy_s": round(plain, 3),
        "copy_ratio": round(plain / sha, 2),
        "lock_s": {name: round(seconds, 3) for name, (seconds, _) in took.items()},
        "ratio": {name: round(seconds / sha, 2) for name, (seconds, _) in took.items()},
        "processor_ratio": {name: round(processor / sha_processor, 2) for name, (_, processor) in took.items()},
        "goal": 2.2,
        "peak_MB": round(max(peaks), 1),
        "peak_goal_MB": 300,
    }


def lock_command(path: Path, out: Path, keystore: Path, options: list[str]) -> list[str]:
    return [*COMMAND, "lock", str(path), "--out", str(out), "--model-id", "bench", "--model-version", "1", "--json",
            "--keystore", str(keystore), "--require", "none", "--measure-seconds", "0", "--forget-earlier-locks",
            *options]  # fmt: skip


def bench_owner(path: Path, environment: dict[str, str], folder: Path) -> dict[str, object]:
    """Peak memory of `verify --full` and `restore` of a file under the default lock."""
    out, keystore = folder / "owner", folder / "kek.json"
    subprocess.run(lock_command(path, out, keystore, []), check=True, env=environment, stdout=subprocess.DEVNULL)
    of = [str(out / path.name), "--bundle", str(out / "bench.clkey"), "--keystore", str(keystore)]
    verify = measured([*COMMAND, "verify", *of, "--full"], environment)
    restore = measured([*COMMAND, "restore", *of, "--out", str(out / "restored")], environment)
    shutil.rmtree(out)
    return {"file": path.name, "megabytes": round(path.stat().st_size / 1e6, 1), "verify_full_MB": round(verify[2], 1),
            "restore_MB": round(restore[2], 1), "peak_goal_MB": 300}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    big = checkpoint(CACHE / "1GB.safetensors", 1000)
    large = checkpoint(CACHE / "2GB.safetensors", 1900)
    pte, small = program(CACHE / "400MB.pte", 24, 2048), program(CACHE / "14MB.pte", 14, 500)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folder = Path(scratch)
        # Bytecode is kept, as pip compiles what it installs; compiling the sources takes a fifth of a second.
        environment = os.environ | {"CORELOCKER_PASSPHRASE": "bench", "PYTHONPYCACHEPREFIX": str(folder / "pycache")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name, secret in (("kek", ["--kek-file", str(folder / "kek")]), ("passphrase", [])):
            subprocess.run(
                [*COMMAND, "keystore", "init", str(folder / f"{name}.json"), *secret],
                check=True,
                env=environment,
                stdout=subprocess.DEVNULL,
            )
        for secret, given in LOCKS.values():  # untimed, for the bytecode
            command = lock_command(small, folder / "out", folder / f"{secret}.json", given)
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            shutil.rmtree(folder / "out")
        rows = [bench_lock(path, options.runs, environment, folder) for path in (big, pte, small)]
        owner = bench_owner(large, environment, folder)
        start_up = statistics.median(
            measured([*COMMAND, "--help"], environment)[0] for _ in range(2 * options.runs + 1)
        )
        bare = statistics.median(
            measured([sys.executable, "-c", "pass"], environment)[0] for _ in range(2 * options.runs + 1)
        )
    result = {"lock": rows, "owner": owner, "help_s": round(start_up, 3), "help_goal_s": 0.3, "bare_python_s": round(bare, 3),
              "cores": os.cpu_count(), "page_size": resource.getpagesize()}  # fmt: skip
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for row in rows:
        ratios = ", ".join(
            f"{name} {seconds} s (ratio {row['ratio'][name]}, of processor time {row['processor_ratio'][name]})"
            for name, seconds in row["lock_s"].items()
        )
        print(
            f"{row['file']:>16}  {row['megabytes']:>7} MB  SHA-256 {row['sha256_s']:.2f} s  "
            f"copy {row['copy_s']:.2f} s (ratio {row['copy_ratio']})  lock: {ratios}, goal 2.2;  "
            f"peak {row['peak_MB']} MB (goal 300)"
        )
    print(
        f"{owner['file']:>16}  {owner['megabytes']:>7} MB  verify --full peak {owner['verify_full_MB']} MB, "
        f"restore peak {owner['restore_MB']} MB (goal 300)"
    )
    print(f"corelocker --help {start_up:.2f} s (goal 0.3), bare Python {bare:.2f} s")


if __name__ == "__main__":
    main()
