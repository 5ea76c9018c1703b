"""A locked model and its key bundle, as a Python program uses them: check, restore, run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from corelocker.bundle.clkey import KeyBundle
from corelocker.errors import UnknownFormatError
from corelocker.progress import Progress, no_progress
from corelocker.runtime.executorch import RestoredModule
from corelocker.runtime.locate import LocatedFile, locate_files
from corelocker.runtime.restored import Check, RestoredFile, restore
from corelocker.runtime.whole import Verification, restore_to_files, verify


class LockedModel:
    """A locked artifact on the disk.

    Attributes:
        path: of the artifact: a file or a folder.
        bundle: its key bundle.
    """

    def __init__(self, path: Path, bundle: KeyBundle, files: Sequence[LocatedFile]) -> None:
        self.path = path
        self.bundle = bundle
        self._files = tuple(files)

    @classmethod
    def open(cls, path: Path | str, bundle: KeyBundle | Path | str, *, publisher: str | None = None) -> Self:
        """Open a locked artifact.

        Args:
            bundle: its key bundle, or the path of it.
            publisher: thumbprint of the publisher's key, by which a bundle given as a path must be signed.

        Raises what `KeyBundle.open` and `locate_files` raise.
        """
        opened = bundle if isinstance(bundle, KeyBundle) else KeyBundle.open(Path(bundle), publisher)
        return cls(Path(path), opened, locate_files(Path(path), opened))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold locked weights."""
        return tuple(file.path for file in self._files)

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers; the first is what ships."""
        return tuple(self.bundle.tiers)

    def verify(self, content_key: bytes | None = None, *, progress: Progress = no_progress) -> Verification:
        """Compare every locked file, and with the content key of the last tier every restored one; see `corelocker.verify`."""
        return verify(self.path, self.bundle, content_key, progress=progress)

    def restore(
        self, content_key: bytes, tier: int | str | None = None, *, check: Check | None = None
    ) -> list[RestoredFile]:
        """Restore all files in memory, in the order of `files`; each is a read-only buffer that is to be closed.

        Args:
            content_key: of the last tier, 32 bytes.
            tier: to restore to; by default the last.
            check: when the whole file is compared; see `RestoredFile.open`.

        Raises what `corelocker.restore` raises; then nothing stays mapped.
        """
        with ExitStack() as opened:
            restored = [
                opened.enter_context(
                    restore(path, self.bundle, content_key, tier, key_tier=len(self.tiers) - 1, check=check)
                )
                for path in self.files
            ]
            opened.pop_all()
        return restored

    def load(self, content_key: bytes, tier: int | str | None = None, *, check: Check | None = None) -> RestoredModule:
        """Restore a `.pte` in memory and load it with ExecuTorch's Python runtime (extra `export`).

        Arguments and errors are those of `restore`; raises UnknownFormatError for another format, MissingExtraError without
        ExecuTorch.
        """
        if self.path.suffix != ".pte":
            raise UnknownFormatError(
                f"{self.path}: only a .pte can be run here", hint="Restore it and run it on a device"
            )
        with ExitStack() as opened:
            buffers: dict[str, Any] = {
                path.suffix: opened.enter_context(file)
                for path, file in zip(self.files, self.restore(content_key, tier, check=check), strict=True)
            }
            return RestoredModule(buffers[".pte"], buffers.get(".ptd"))

    def restore_to(
        self, out: Path | str, content_key: bytes, tier: int | str | None = None, *, force: bool = False
    ) -> list[Path]:
        """Write the artifact, restored, to files: for its owner; see `restore_to_files`."""
        return restore_to_files(self.path, self.bundle, content_key, out, tier, force=force)
