"""One build: a torch model exported to all targets and locked. What `corelocker export` does and a build script calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from corelocker.errors import ConfigError, CoreLockerError, ExportError, MissingExtraError
from corelocker.exporting.config import ExportTarget
from corelocker.exporting.source import load_model
from corelocker.exporting.target import export_target
from corelocker.files import move_into_place, refuse_existing, staging_folder
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    from corelocker.bundle.keystore import Keystore
    from corelocker.locking.lock import LockResult
    from corelocker.locking.options import LockOptions
    from corelocker.locking.requirement import Requirement


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        outputs: the paths of the exported models, or of the locked ones and their key bundle.
        notes: for each target's file name, what went otherwise than asked.
        lock: None where nothing was to be locked.
        failed: file name of a target that could not be exported -> why.
    """

    outputs: tuple[Path, ...]
    notes: dict[str, list[str]]
    lock: LockResult | None
    failed: dict[str, str] = field(default_factory=dict)


def export(
    model: str,
    targets: Sequence[ExportTarget],
    out: Path | str,
    *,
    lock: LockOptions | None = None,
    model_id: str | None = None,
    model_version: int | None = None,
    keystore: Keystore | None = None,
    require: str | Requirement = "collapse",
    force: bool = False,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a torch model for phones into the folder `out` and lock all of it under one key bundle. Needs the extra `export`.

    Args:
        model: `package.module:factory`, or the path of a `.pt2` file; see `load_model`.
        targets: the files to write.
        lock: how to lock; without it the exported files are written as they are. With it the unlocked files are not kept, and
            `model_id`, `model_version` and `keystore` are needed as for `corelocker.lock`.
        require: what the locked files may be worth, as for `corelocker.lock`.
        force: replace outputs that exist.
        progress: called with (stage, done, total).

    All outputs appear at once, or nothing does. A target that cannot be exported is told in the result and does not keep the others
    from being written. Raises ConfigError, MissingExtraError, ExportError where no target can be exported, and what
    `corelocker.lock` raises.
    """
    if lock is not None and (model_id is None or model_version is None or keystore is None):
        raise ConfigError("locking needs a model id, a model version and a keystore")
    out, notes, paths = Path(out), {}, []
    failures: dict[str, CoreLockerError] = {}
    _check_targets(targets, out, None if lock is None else f"{model_id}.clkey", force)
    with staging_folder(out) as folder:
        progress("load", 0, 1)
        source = load_model(model)
        progress("load", 1, 1)
        for target in targets:
            try:
                made = export_target(
                    source, target, folder, progress=lambda step, done, total: progress("export", done, total)
                )
            except (ExportError, MissingExtraError) as error:
                failures[target.filename] = error
                continue
            paths += made.files
            notes[target.filename] = list(made.notes)
        if not paths and failures:
            raise next(iter(failures.values()))
        failed = {name: str(error) for name, error in failures.items()}
        if lock is None or model_id is None or model_version is None or keystore is None:
            move_into_place(paths, out, force=force)
            return ExportResult(tuple(out / path.name for path in paths), notes, None, failed)
        from corelocker.locking.lock import lock as lock_files

        locked = lock_files(
            paths,
            out,
            model_id=model_id,
            model_version=model_version,
            keystore=keystore,
            options=lock,
            require=require,
            force=force,
            progress=progress,
        )
    outputs = [path for artifact in locked.artifacts for path in artifact.outputs]
    return ExportResult((*outputs, locked.bundle), notes, locked, failed)


def _check_targets(targets: Sequence[ExportTarget], out: Path, bundle: str | None, force: bool) -> None:
    """Find what is in the way before minutes of work. Raises OutputExistsError."""
    names = [*(target.filename for target in targets), *([] if bundle is None else [bundle])]
    refuse_existing(*(out / name for name in names), force=force)
