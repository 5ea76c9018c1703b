"""The publisher's own Python functions, named as `package.module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from operator import attrgetter
from pathlib import Path
from typing import Any

from corelocker.errors import ConfigError


def call_factory(spec: str) -> Any:
    """Call `package.module:function` without arguments; the working directory is importable. Raises ConfigError."""
    return call(spec, find_function(spec))


def find_function(spec: str) -> Callable[..., Any]:
    """The function `package.module:function`; the working directory is importable. Raises ConfigError."""
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"{spec!r} is not package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = attrgetter(name)(importlib.import_module(module_name))
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec}: cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ConfigError(f"{spec}: is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def call(spec: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function that `spec` names; what it prints goes to standard error. Raises ConfigError when it fails."""
    try:
        with redirect_stdout(sys.stderr):  # a command may print JSON on standard output
            return function(*arguments)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec}: failed: {type(error).__name__}: {error}") from error
