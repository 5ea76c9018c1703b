"""Fails when a log of the end-to-end tests holds a secret: content key, purchase token, wrapped key of a license, restored bytes.

    check_logs.py WORLD_FOLDER LOG..

WORLD_FOLDER is what world.py has worked in; the service's own logs are in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/python"))

from support.leaks import find, restored_pieces  # noqa: E402 - after the path


def main(world: Path, logs: list[Path]) -> int:
    about = json.loads((world / "secrets.json").read_text())
    secrets = {name: bytes.fromhex(secret) for name, secret in about["secrets"].items()}
    pieces = restored_pieces(Path(about["locked"]).read_bytes(), Path(about["original"]).read_bytes())
    # Nothing would be found in what is not there.
    kinds = {name.rstrip("0123456789 ") for name in secrets}
    empty = [log.name for log in (*logs, world / "service.log") if not log.stat().st_size]
    if not pieces or not {"content key", "purchase token", "wrapped key"} <= kinds or empty:
        print(f"nothing to look for, or nothing logged: {sorted(kinds)}, {len(pieces)} pieces, empty: {empty}")
        return 1
    logs += sorted(world.rglob("*.log"))
    found = [f"{log.name} holds {name}" for log in logs for name in find(log.read_bytes(), secrets | pieces)]
    print(
        "\n".join(found)
        or f"{len(secrets)} secrets and {len(pieces)} pieces of the model are in none of {len(logs)} logs"
    )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(log) for log in sys.argv[2:]]))
