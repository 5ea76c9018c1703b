"""Restoring a locked file in memory, below the runtime that loads it.

`restored` maps a file and applies the patches; `streamed` does so part by part, for the file's owner. `locate` finds the files
that a bundle belongs to. `checked_files` remembers which files were compared as a whole. `executorch` loads a restored file with
ExecuTorch. `whole` restores and verifies whole artifacts for their owner. The package uses `bundle` and never `locking`: a device
never locks.
"""

from corelocker.runtime.restored import Check, RestoredFile, restore
from corelocker.runtime.streamed import restore_to_file

__all__ = ["Check", "RestoredFile", "restore", "restore_to_file"]
