"""CoreLocker ships a neural network in a locked state and restores it, bit for bit, on a device that has proven itself.

`artifacts` reads finished model files. `locking` takes the access key out of them. `bundle` packs the key, encrypted
and signed. `licensing` releases the content key to a device. `runtime` puts the bytes back in memory. `audit` says
what the lock is worth.

A build script can import what it needs from here. Each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corelocker.artifacts.detect import open_artifacts
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.bundle.keystore import Keystore
    from corelocker.errors import CoreLockerError
    from corelocker.exporting.build import ExportResult, export
    from corelocker.exporting.config import ExportTarget
    from corelocker.locking.lock import LockResult, lock
    from corelocker.locking.options import LockOptions, LockWarning
    from corelocker.locking.tiers import Tier, parse_tiers
    from corelocker.runtime.model import LockedModel
    from corelocker.runtime.restored import RestoredFile, restore
    from corelocker.runtime.whole import Verification, restore_to_files, verify

__version__ = "0.1.0"

__all__ = [
    "CoreLockerError",
    "ExportResult",
    "ExportTarget",
    "KeyBundle",
    "Keystore",
    "LockOptions",
    "LockResult",
    "LockWarning",
    "LockedModel",
    "RestoredFile",
    "Tier",
    "Verification",
    "export",
    "lock",
    "open_artifacts",
    "parse_tiers",
    "restore",
    "restore_to_files",
    "verify",
]

_HOME = {
    "CoreLockerError": "errors",
    "ExportResult": "exporting.build",
    "ExportTarget": "exporting.config",
    "KeyBundle": "bundle.clkey",
    "Keystore": "bundle.keystore",
    "LockOptions": "locking.options",
    "LockResult": "locking.lock",
    "LockWarning": "locking.options",
    "LockedModel": "runtime.model",
    "RestoredFile": "runtime.restored",
    "Tier": "locking.tiers",
    "Verification": "runtime.whole",
    "export": "exporting.build",
    "lock": "locking.lock",
    "open_artifacts": "artifacts.detect",
    "parse_tiers": "locking.tiers",
    "restore": "runtime.restored",
    "restore_to_files": "runtime.whole",
    "verify": "runtime.whole",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'corelocker' has no attribute {name!r}")
    value = getattr(import_module(f"corelocker.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
