"""Restoring a locked file in memory, below the runtime that loads it.

Owns the restored mapping of a file (`restored`) and loading it with ExecuTorch (`executorch`). Uses `bundle`, never
`locking`: a device never locks.
"""

from corelocker.runtime.restored import RestoredFile, restore, restore_to_file

__all__ = ["RestoredFile", "restore", "restore_to_file"]
