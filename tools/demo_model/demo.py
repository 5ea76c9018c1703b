"""The main job on a real model, with measured accuracies: `make demo`.

python -m tools.demo_model.demo [--images 2000] [--keep FOLDER] [--json]
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from corelocker.cli.app import Json, emit, human, progress_bar, warnings_in_one_line, wide_console
from corelocker.cli.service_options import require_service_extra
from corelocker.errors import CoreLockerError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.exporting import ExportTarget
    from corelocker.locking.lock import LockResult

DATA = Path(__file__).resolve().parent / "data"
FACTORY = "tools.demo_model.fashion_mobilenet:calibrated"


@dataclass(frozen=True)
class Row:
    """An artifact's figures: accuracy in percent by state, agreement of the locked file and chance as `corelocker lock` measured
    them, key size, seconds and exactness."""

    name: str
    accuracy: dict[str, float]
    agreement: float | None
    chance: float | None
    locked_bytes: int
    locked_fraction: float
    restore_ms: float
    bit_exact: bool


@dataclass(frozen=True)
class Measuring:
    """A row whose accuracies are still being measured."""

    name: str
    accuracy: dict[str, Future[float]]
    agreement: float | None
    chance: float | None
    locked_bytes: int
    locked_fraction: float
    restore_ms: float
    bit_exact: bool

    def finished(self) -> Row:
        """The row, once everything is measured."""
        return Row(**vars(self) | {"accuracy": {name: future.result() for name, future in self.accuracy.items()}})


def demo(
    images: Annotated[int, typer.Option(min=10, max=2000, help="How many of the 2,000 test images to use.")] = 2000,
    keep: Annotated[Path | None, typer.Option(help="Keep originals, locked files and keys in this folder.")] = None,
    json: Json = False,
) -> None:
    """Lock a small Fashion-MNIST classifier for ExecuTorch and Core ML, restore it, and measure what each tier is worth.

    Then run the unlock service on this machine and show whom it gives the model to, and whom not. Needs
    `corelocker[export,service]`.

    Example: python -m tools.demo_model.demo --images 500
    """
    require_service_extra()
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        result = _run(keep, images, json)
    else:
        with tempfile.TemporaryDirectory(prefix="corelocker-demo-") as folder:
            result = _run(Path(folder), images, json)
    emit(json, result, lambda: _print(result))
    as_expected = all(step["as_expected"] for step in result["unlocking"])
    if not as_expected or not all(row["bit_exact"] for row in result["artifacts"]):
        raise typer.Exit(1)


def _run(folder: Path, images: int, as_json: bool) -> dict[str, Any]:
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.bundle.keystore import Keystore
    from corelocker.locking.lock import lock
    from corelocker.locking.options import LockOptions

    from tools.demo_model.unlocking import unlocking

    originals, dist = folder / "original", folder / "dist"
    originals.mkdir(exist_ok=True)
    with _workers() as pool:
        started = time.perf_counter()
        with progress_bar(as_json) as show:
            paths = _export(pool, originals, show)
        exported = time.perf_counter() - started

        # A publisher has a passphrase or a key-encryption key; the demo's keystore lives for a minute.
        store = Keystore.create(folder / f"keys-{secrets.token_hex(4)}.json", secrets.token_bytes(16).hex().encode())
        # The default lock. The seed makes the table repeatable; a publisher leaves it out.
        options = LockOptions(seed="demo")
        started = time.perf_counter()
        with progress_bar(as_json) as show, warnings_in_one_line():
            result = lock(
                paths,
                dist,
                model_id="fashion",
                model_version=1,
                keystore=store,
                options=options,
                force=True,
                progress=show,
            )
        locked = time.perf_counter() - started

        def evaluate(path: Path, state: bytes) -> Future[float]:
            return pool.submit(_evaluate, path, state, images)

        bundle = KeyBundle.open(result.bundle, store.publisher)
        key = store.content_key(bundle.id)
        measuring = [
            _measure(result, number, path, dist / path.name, bundle, key, evaluate) for number, path in enumerate(paths)
        ]
        with progress_bar(as_json) as show:
            for done, accuracy in enumerate([future for row in measuring for future in row.accuracy.values()]):
                show("measure", done, len(measuring) * (len(bundle.tiers) + 1))
                accuracy.result()
        rows = [row.finished() for row in measuring]
        started = time.perf_counter()
        shown = unlocking(
            folder, store, result.bundle, dist / paths[0].name, paths[0],
            lambda state: evaluate(paths[0], state).result(), rows[0].accuracy["original"],
        )  # fmt: skip
        unlocked = time.perf_counter() - started
    return {
        "tiers": list(bundle.tiers),
        "images": images,
        "artifacts": [vars(row) for row in rows],
        "bundle_bytes": result.bundle_bytes,
        "export_s": round(exported, 2),
        "lock_s": round(locked, 2),
        "unlocking": [vars(step) for step in shown],
        "unlocking_s": round(unlocked, 2),
    }


def _workers() -> ProcessPoolExecutor:
    """Processes that export and run models: each form of the model is a quarter of a minute of one core's work."""
    return ProcessPoolExecutor(min(3, os.cpu_count() or 1), get_context("spawn"))


def _export(pool: ProcessPoolExecutor, folder: Path, show: Callable[[str, int, int], None]) -> list[Path]:
    from corelocker.exporting import ExportTarget

    targets = (  # the one that takes longest first
        ExportTarget("fashion_int8", "executorch", quantize="int8"),
        ExportTarget("fashion_fp32", "executorch"),
        ExportTarget("fashion", "coreml"),
    )
    exporting = [pool.submit(_export_one, target, folder) for target in targets]
    for done, _ in enumerate(as_completed(exporting)):
        show("export", done + 1, len(targets))
    int8, fp32, package = (future.result() for future in exporting)
    return [fp32, int8, package]


def _export_one(target: ExportTarget, folder: Path) -> Path:
    from corelocker.exporting import export_target, load_model

    source = load_model(FACTORY)
    import torch

    torch.set_num_threads(1)
    return export_target(source, target, folder, force=True).path


def _measure(
    result: LockResult,
    number: int,
    original: Path,
    locked: Path,
    bundle: KeyBundle,
    key: bytes,
    evaluate: Callable[[Path, bytes], Future[float]],
) -> Measuring:
    """Accuracy of the original and of every tier, each loaded from memory as a device would."""
    from corelocker.runtime.restored import restore

    artifact, file = result.artifacts[number], bundle.artifacts[number].files[0].path
    weights, sealed = (p if p.is_file() else p / file for p in (original, locked))
    accuracy = {"original": evaluate(original, weights.read_bytes())}
    milliseconds, exact = 0.0, False
    for tier, name in enumerate(bundle.tiers):
        started = time.perf_counter()
        with restore(sealed, bundle, key, tier, key_tier=len(bundle.tiers) - 1) as restored:
            milliseconds = (time.perf_counter() - started) * 1e3
            state = bytes(restored)
        accuracy[name] = evaluate(locked, state)
        exact = state == weights.read_bytes()
    agreed, chance = ((t := artifact.measured.tiers[0]).value, t.chance) if artifact.measured.tiers else (None, None)
    return Measuring(
        original.name, accuracy, agreed, chance, artifact.locked_bytes, artifact.locked_fraction, round(milliseconds, 2),
        exact,
    )  # fmt: skip


def _evaluate(path: Path, state: bytes, images: int) -> float:
    """Top-1 in percent of the model at `path`, with the weights (a program, or a package's weight file) in `state`."""
    import numpy as np

    with np.load(DATA / "fashion_test_2000.npz") as data:
        chosen = np.linspace(0, len(data["y"]) - 1, images).astype(np.int64)
        x, y = data["x"][chosen].astype(np.float32)[:, None] / 255, data["y"][chosen]
    _use_one_thread()
    return (_evaluate_pte if path.suffix == ".pte" else _evaluate_package)(path, state, x, y)


@cache
def _use_one_thread() -> None:
    """The model is too small to share between threads, which only wait for each other where the machine is busy."""
    import torch
    from executorch.extension.pybindings import portable_lib

    torch.set_num_threads(1)
    # ExecuTorch tells about it, and about the processor, on the terminal; below Python's own sys.stderr.
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        portable_lib._unsafe_reset_threadpool(1)
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _evaluate_pte(path: Path, program: bytes, x: npt.NDArray[np.float32], y: npt.NDArray[np.uint8]) -> float:
    """Top-1 in percent through the ExecuTorch runtime."""
    import torch
    from executorch.runtime import Runtime

    loaded = Runtime.get().load_program(program)  # must live as long as its methods
    method = loaded.load_method("forward")
    images = torch.from_numpy(x)
    right = sum(int(method.execute([images[i : i + 1]])[0].argmax()) == int(y[i]) for i in range(len(y)))
    return round(100 * right / len(y), 2)


def _evaluate_package(path: Path, weights: bytes, x: npt.NDArray[np.float32], y: npt.NDArray[np.uint8]) -> float:
    """Top-1 in percent by the Linux evaluator of mlprograms (fp32 arithmetic; Core ML itself runs on Apple's systems alone)."""
    import torch
    from corelocker.audit.mlprogram import MlProgramEvaluator

    program = MlProgramEvaluator(path, weights)
    (name,) = program.inputs
    (logits,) = program.batch({name: torch.from_numpy(x)}).values()
    right = int((logits.reshape(len(y), -1).argmax(dim=1).numpy() == y).sum())
    return round(100 * right / len(y), 2)


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    console = wide_console()
    tiers = result["tiers"]
    states = ["original", *(f"locked: {tiers[0]}", *tiers[1:-1], f"restored: {tiers[-1]}")]
    table = Table("model", *states, "agreement, chance", "access key", "of weights", "restore", "bit-exact")
    for row in result["artifacts"]:
        accuracies = [f"{row['accuracy'][name]:.2f} %" for name in ("original", *tiers)]
        agreement = "not measured"
        if row["agreement"] is not None:
            agreement = f"{100 * row['agreement']:.1f} %, {100 * row['chance']:.1f} %"
        table.add_row(
            row["name"], *accuracies, agreement, human(row["locked_bytes"]), f"{100 * row['locked_fraction']:.2f} %",
            f"{row['restore_ms']:.1f} ms", "yes" if row["bit_exact"] else "NO",
        )  # fmt: skip
    console.print(table)
    console.print(f"Top-1 accuracy on {result['images']} test images of Fashion-MNIST; a blind guess is right in 10 %.")
    console.print(
        "Agreement is the share of equal answers of the locked file and its original, on synthetic images; chance is what it is "
        "with the original's answers shuffled. The lock measured both."
    )
    console.print(
        ".pte through the ExecuTorch runtime, .mlpackage through an fp32 evaluator (Core ML runs on Apple's systems)."
    )
    console.print(
        f"One key bundle for all: {human(result['bundle_bytes'])}. "
        f"Export {result['export_s']} s, lock {result['lock_s']} s (most of it running the locked files)."
    )
    exact = all(row["bit_exact"] for row in result["artifacts"])
    console.print(f"bit-exact: {'yes' if exact else 'NO'}")
    console.print(f"\nUnlocking {result['artifacts'][0]['name']}, one device a purchase ({result['unlocking_s']} s):")
    for step in result["unlocking"]:
        mark = "ok" if step["as_expected"] else "WRONG"
        console.print(f"  {mark:5} {step['what']}: {step['outcome']}", markup=False, highlight=False)


if __name__ == "__main__":  # a process that multiprocessing starts imports this too
    try:
        typer.run(demo)
    except CoreLockerError as error:
        sys.exit(f"demo: {error} [{error.code}]")
