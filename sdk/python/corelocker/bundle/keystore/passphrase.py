"""Where the passphrase of a keystore comes from."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from corelocker.bundle.keystore.small_files import read_small
from corelocker.errors import KeystoreSecretError

_MAX_PASSPHRASE = 4096


def read_passphrase(
    *, file: Path | None = None, variable: str | None = None, question: str = "Passphrase", confirm: bool = False
) -> bytes:
    """A passphrase from a file, else from an environment variable that is set, else from the terminal.

    Args:
        file: one line break at its end does not count. Build systems mount secrets with modes of their own, so the mode is
            not checked.
        variable: name of the environment variable.
        question: the prompt.
        confirm: whether to ask twice.

    Raises KeystoreSecretError when there is none, it is empty, or two answers differ, FileAccessError for a file that cannot
    be read.
    """
    if file is not None:
        passphrase = read_small(file, _MAX_PASSPHRASE).removesuffix(b"\n").removesuffix(b"\r")
    elif variable is not None and variable in os.environ:
        passphrase = os.environb[variable.encode()]
    elif sys.stdin is not None and sys.stdin.isatty():
        try:
            passphrase = getpass.getpass(f"{question}: ").encode()
            if confirm and getpass.getpass(f"{question} (again): ").encode() != passphrase:
                raise KeystoreSecretError("the two passphrases differ")
        except EOFError:
            raise KeystoreSecretError("no passphrase was given") from None
    else:
        sources = "a file" if variable is None else f"a file or the variable {variable}"
        raise KeystoreSecretError("no passphrase, and no terminal to ask for one", hint=f"Give it in {sources}")
    if not passphrase:
        raise KeystoreSecretError("the passphrase is empty")
    return passphrase
