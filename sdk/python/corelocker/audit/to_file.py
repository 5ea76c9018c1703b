"""An audit from its options to the report in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from corelocker.artifacts import Artifact
from corelocker.audit.options import AuditOptions, LockedInput
from corelocker.audit.report import html
from corelocker.audit.run import audit
from corelocker.files import check_can_be_written, write_atomically
from corelocker.locking.choose import choose_channels
from corelocker.locking.presets import preset
from corelocker.progress import Progress, no_progress

if TYPE_CHECKING:
    from corelocker.locking.options import LockOptions
    from corelocker.locking.plan import Plan


def audit_to_file(
    options: AuditOptions,
    lock: LockOptions,
    out: Path,
    *,
    sealed: LockedInput | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Audit a model, write the report to `out` and return the document behind it.

    Args:
        options: what to audit; how it is locked comes from `lock`.
        lock: how an unlocked model is locked in memory, as `corelocker lock` would.
        sealed: how to open a locked one.
        force: replace a report that exists.
        progress: called with (stage, done, total).

    Raises OutputExistsError and FileAccessError before anything runs, and what `audit` raises.
    """
    check_can_be_written(out, force=force)
    document = audit(_locked_as(options, lock), sealed, progress)
    with write_atomically(out, force=force, mode=0o600) as file:
        file.write(html(document).encode())
    return document


def locked_input(model: Path, bundle: Path, publisher: str | None, content_key: Callable[[UUID], bytes]) -> LockedInput:
    """A locked model with its bundle, checked for the `publisher` (a thumbprint), and the bundle's content key."""
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.runtime.locate import locate_files

    opened = KeyBundle.open(bundle, publisher)
    files = [(file.path, file.artifact, file.file) for file in locate_files(model, opened)]
    return LockedInput(opened, content_key(opened.id), files)


def _locked_as(options: AuditOptions, lock: LockOptions) -> AuditOptions:
    """The options of an audit that locks as `lock` says, where a preset stands for what is not given."""
    named = preset(lock.effective_preset) if lock.effective_preset is not None else None
    criterion = lock.criterion or (named.criterion if named else "l1")

    def planned(artifacts: Sequence[Artifact], seed: bytes, scorer: Any, progress: Progress) -> Plan:
        return choose_channels(artifacts, lock, seed, progress, scorer if criterion == "sensitivity" else None)

    return replace(
        options,
        criterion=criterion,
        scope=lock.scope or (named.scope if named else "global" if criterion == "sensitivity" else "layer"),
        fill=lock.fill or (named.fill if named else "decoy"),
        consumers=lock.consumers,
        include_io=lock.include_io or named is not None,
        exclude=lock.exclude,
        source=lock.source,
        plan=lock.plan,
        input_stats=lock.input_stats,
        choose=planned,
        preset=lock.effective_preset,
    )
