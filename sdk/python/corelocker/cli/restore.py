"""`corelocker verify` and `corelocker restore`: locked files against their key bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from corelocker.cli.app import (
    DEFAULT_KEYSTORE,
    Force,
    Json,
    KeystorePath,
    PassphraseFile,
    Publisher,
    emit,
    open_keystore,
    progress_bar,
    publisher_thumbprint,
)

Bundle = Annotated[Path, typer.Option(help="The key bundle (.clkey) of the lock run.")]


def verify(
    path: Annotated[Path, typer.Argument(help="A locked file or folder.")],
    bundle: Bundle,
    full: Annotated[
        bool, typer.Option("--full", help="Also restore every tier in memory, with the keystore's key.")
    ] = False,
    publisher: Publisher = None,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Check that a locked model and a key bundle belong together and are whole.

    Checks the bundle's signature and the SHA-256 of every locked file; with --full and a keystore also that every tier restores.

    Example: corelocker verify dist/A.pte --bundle dist/scanner.clkey
    """
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.core_dumps import no_core_dumps
    from corelocker.runtime.whole import verify as verify_files

    no_core_dumps()
    opened = KeyBundle.open(bundle, publisher_thumbprint(publisher))
    key = None
    if full and ((keystore or DEFAULT_KEYSTORE).exists() or keystore is not None):
        key = open_keystore(keystore, passphrase_file).content_key(opened.id)
    with progress_bar(json) as show:
        found = verify_files(path, opened, key, progress=show)
    tiers = list(found.tiers_restored)
    document = {
        "bundle": str(bundle),
        "bundle_id": str(opened.id),
        "model": opened.model,
        "model_version": opened.model_version,
        "publisher": opened.publisher,
        "publisher_pinned": publisher is not None,
        "files": [str(file) for file in found.files],
        "tiers_restored": tiers,
    }

    def text() -> None:
        print(f"{path}: locked, as in {bundle} (model {opened.model}, version {opened.model_version})")
        pinned = "as asked for" if publisher else "not compared: pass --publisher"
        print(f"signed by {opened.publisher} ({pinned})")
        if full:
            print(f"restored exactly: {', '.join(tiers)}" if tiers else "tiers not restored: no keystore at hand")

    emit(json, document, text)


def restore(
    path: Annotated[Path, typer.Argument(help="A locked file or folder.")],
    bundle: Bundle,
    out: Annotated[Path, typer.Option(help="Where to write it, restored.")],
    tier: Annotated[str | None, typer.Option(help="Tier to restore to.", show_default="the last")] = None,
    publisher: Publisher = None,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a locked model restored to a file: for its owner. Devices restore in memory only.

    Files that belong to the same artifact (the .ptd of a .pte, the shards of a checkpoint) are restored beside it.

    Example: corelocker restore dist/A.pte --bundle dist/scanner.clkey --keystore keys.json --tier plus --out restored.pte
    """
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.core_dumps import no_core_dumps
    from corelocker.runtime.whole import restore_to_files

    no_core_dumps()
    opened = KeyBundle.open(bundle, publisher_thumbprint(publisher))
    index = opened.tier(tier) if tier is not None else len(opened.tiers) - 1
    key = open_keystore(keystore, passphrase_file).content_key(opened.id)
    with progress_bar(json) as show:
        written = restore_to_files(path, opened, key, out, index, force=force, progress=show)
    document: dict[str, Any] = {
        "out": [str(p) for p in written],
        "tier": opened.tiers[index],
        "model": opened.model,
        "model_version": opened.model_version,
    }
    emit(
        json,
        document,
        lambda: print(f"{', '.join(document['out'])}: restored to tier {opened.tiers[index]}, every byte checked"),
    )
