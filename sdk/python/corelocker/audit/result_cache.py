"""Results that survive an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corelocker.errors import FileAccessError
from corelocker.files import write_atomically

if TYPE_CHECKING:
    pass


class ResultCache:
    """Results by the content of what they depend on, kept in a folder (or, without one, for this run)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._held: dict[str, Any] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileAccessError(f"{folder}: {error.strerror or error}") from None

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The JSON object of this key; made and kept when it is not there. A damaged file is made again."""
        if key in self._held:
            return self._held[key]
        path = None if self.folder is None else self.folder / f"{key}.json"
        value = None
        if path is not None and path.exists():
            try:
                value = json.loads(path.read_bytes())
            except (OSError, ValueError):
                value = None
            if not isinstance(value, dict):
                value = None
        if value is None:
            value = make()
            if path is not None:
                with write_atomically(path, force=True, mode=0o600) as file:
                    file.write(json.dumps(value).encode())
        self._held[key] = value
        return value


def content_key(*parts: object) -> str:
    """A name for what a result depends on: SHA-256 over the representations, 40 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, (bytes, memoryview)) else repr(part).encode()
        sha256.update(len(data).to_bytes(8, "little"))
        sha256.update(data)
    return sha256.hexdigest()[:40]
