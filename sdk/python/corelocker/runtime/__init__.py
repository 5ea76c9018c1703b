"""Restoring a locked file in memory, below the runtime that loads it.

Owns the restored mapping of a file (`restored`), what is known of files that were compared as a whole (`checked_files`) and
loading a mapping with ExecuTorch (`executorch`). Uses `bundle`, never `locking`: a device never locks.
"""

from corelocker.runtime.restored import Check, RestoredFile, restore, restore_to_file

__all__ = ["Check", "RestoredFile", "restore", "restore_to_file"]
