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

MESSAGE = 240  # characters of a foreign exception's message that an error repeats


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
        raise ConfigError(f"{spec}: cannot be imported: {short(error)}") from error
    if not callable(function):
        raise ConfigError(f"{spec}: is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def call(spec: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function that `spec` names; what it prints goes to standard error. Raises ConfigError when it fails."""
    try:
        with redirect_stdout(sys.stderr):  # a command may print JSON on standard output
            return function(*arguments)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec}: failed: {short(error)}") from error


def short(error: BaseException) -> str:
    """The kind of an exception and the first line of its message (with the next one, where that is what it announces)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {text if len(text) <= MESSAGE else f'{text[:MESSAGE]}...'}"
