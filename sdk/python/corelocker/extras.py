"""Optional dependencies: imported when a function needs them, and named where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from corelocker.errors import MissingExtraError


def need(module: str, purpose: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: the module's name, as in an import statement.
        purpose: what needs it, for the message: "the audit".
        extra: the extra of this package that installs it.

    Raises MissingExtraError when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed", hint=f"pip install 'corelocker[{extra}]'"
        ) from None
