"""The application, and what all commands share: output as text or JSON, progress, errors, the keystore's secret."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker import __version__
from corelocker.cli.commands import LazyGroup
from corelocker.errors import ConfigError, CoreLockerError, FileAccessError, TierError
from corelocker.locking.options import LockWarning

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from rich.console import Console

    from corelocker.bundle.keystore import Keystore
    from corelocker.hashing import FileHashes

app = typer.Typer(
    name="corelocker",
    help="Lock finished neural networks and restore them, bit for bit, on devices that have proven themselves.",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich's markdown takes as long as everything else together
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for pipelines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]
KeystorePath = Annotated[
    Path | None,
    typer.Option(
        "--keystore", envvar="CORELOCKER_KEYSTORE", help="The publisher's keystore.", show_default="keys.json"
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        envvar="CORELOCKER_PASSPHRASE_FILE",
        help="File with the keystore's passphrase. Else the variable CORELOCKER_PASSPHRASE, else a prompt.",
    ),
]
Publisher = Annotated[
    str | None, typer.Option(help="Thumbprint or PEM file of the publisher's key; the bundle must be signed by it.")
]
DEFAULT_KEYSTORE = Path("keys.json")


def _version(value: bool) -> None:
    if value:
        print(f"corelocker {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


def run(arguments: Sequence[str], hashes: FileHashes | None = None) -> int:
    """Run one command and return its exit code. Every CoreLockerError becomes one line, or JSON with `--json`.

    `hashes` hashes some of the files that the command will ask for.
    """
    as_json = "--json" in arguments
    try:
        with warnings_in_one_line():
            app(list(arguments), obj=hashes)
    except SystemExit as stop:  # how typer ends, with 2 for wrong usage
        return stop.code if isinstance(stop.code, int) else 0
    except CoreLockerError as error:
        _report(error.code, str(error), as_json)
        return 2 if isinstance(error, (ConfigError, TierError)) else 1
    except MemoryError:
        _report("memory", "out of memory", as_json)
        return 1
    except OSError as error:
        _report(FileAccessError.code, f"{error.filename or 'a file'}: {error.strerror or error}", as_json)
        return 1
    return 0


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Shows the warnings of this package as its errors are shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LockWarning)
        warnings.showwarning = _show_warning(warnings.showwarning)
        yield


def _show_warning(others: Callable[..., None]) -> Callable[..., None]:
    """One line on standard error for a warning of this package; `others` shows those of other packages."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, LockWarning):
            print(f"corelocker: warning: {message}", file=sys.stderr)
        else:
            others(message, category, *place, **more)

    return show


def _report(code: str, message: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": {"code": code, "message": message}}))
    else:
        print(f"corelocker: {message} [{code}]", file=sys.stderr)


def emit(as_json: bool, document: dict[str, Any], text: Callable[[], None]) -> None:
    """Print the result: the document with `--json`, else what `text` prints."""
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        text()


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A function (stage, done, total) that shows progress on stderr when that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield update


def open_keystore(path: Path | None, passphrase_file: Path | None) -> Keystore:
    """Open the publisher's keystore with its passphrase (variable, file or prompt) or its key-encryption key."""
    from corelocker.bundle.keystore import Keystore

    return Keystore.open(*_keystore_and_secret(path, passphrase_file))


def open_keystore_beside(pool: Executor, path: Path | None, passphrase_file: Path | None) -> Future[Keystore]:
    """The same in a pool, so that something else can go on meanwhile."""
    from corelocker.bundle.keystore import Keystore

    return Keystore.open_beside(pool, *_keystore_and_secret(path, passphrase_file))


def _keystore_and_secret(path: Path | None, passphrase_file: Path | None) -> tuple[Path, Callable[[], bytes]]:
    path = path or DEFAULT_KEYSTORE
    if not path.exists():
        raise FileAccessError(f"{path}: no such keystore", hint=f"Make one with `corelocker keystore init {path}`")
    return path, lambda: passphrase(passphrase_file, f"Passphrase of {path}")


def passphrase(file: Path | None, question: str, *, confirm: bool = False) -> bytes:
    """The passphrase from a file, the variable CORELOCKER_PASSPHRASE, or a prompt on the terminal; never from an argument."""
    from corelocker.bundle.keystore import read_passphrase

    return read_passphrase(file=file, variable="CORELOCKER_PASSPHRASE", question=question, confirm=confirm)


def publisher_thumbprint(publisher: str | None) -> str | None:
    """A thumbprint as it is, or that of the public key in a PEM file. Raises ConfigError when it is neither."""
    if publisher is None or not Path(publisher).exists():
        if publisher is not None and len(publisher) != 43:
            raise ConfigError(f"publisher {publisher!r} is neither a thumbprint (43 characters) nor a PEM file")
        return publisher
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from corelocker.bundle.jose import thumbprint

    try:
        key = load_pem_public_key(Path(publisher).read_bytes())
        if isinstance(key, ec.EllipticCurvePublicKey):
            return thumbprint(key)
    except ValueError:
        pass
    raise ConfigError(
        f"{publisher}: not the PEM of a P-256 public key", hint="`corelocker keystore show --pem` prints one"
    )


def wide_console(least: int = 0) -> Console:
    """A console for tables: as wide as the terminal, `least` characters, and where there is none wide enough for file names."""
    from rich.console import Console

    return Console(width=max(least, Console().width if sys.stdout.isatty() else 140))


def human(size: int) -> str:
    """Bytes as people read them."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        size_ = size / 1000 ** (("kB", "MB", "GB").index(unit) + 1)
        if size_ < 1000:
            break
    return f"{size_:.1f} {unit}"
