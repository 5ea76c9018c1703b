"""`corelocker keystore init|show|rotate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import DEFAULT_KEYSTORE, Json, PassphraseFile, emit, open_keystore, passphrase

if TYPE_CHECKING:
    from corelocker.bundle.keystore import Kek, Keystore

app = typer.Typer(
    help="The publisher's secrets: signing key and content keys, in one encrypted file.", no_args_is_help=True
)

Path_ = Annotated[Path, typer.Argument(envvar="CORELOCKER_KEYSTORE", help="The keystore.")]
KekFile = Annotated[
    Path | None,
    typer.Option(help="Protect with the 32-byte key in this file instead of a passphrase; made when missing."),
]
KekReference = Annotated[
    str | None,
    typer.Option("--kek", help="Protect with a key-encryption key: PROVIDER:REFERENCE of an installed provider."),
]
NewPassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File with the new passphrase. Else the variable CORELOCKER_NEW_PASSPHRASE, else a prompt."),
]


@app.command()
def init(
    path: Path_ = DEFAULT_KEYSTORE,
    passphrase_file: PassphraseFile = None,
    kek_file: KekFile = None,
    kek: KekReference = None,
    json: Json = False,
) -> None:
    """Make a keystore with a new signing key.

    Example: corelocker keystore init keys.json
    """
    from corelocker.bundle.keystore import Keystore
    from corelocker.files import refuse_existing

    refuse_existing(path)  # before a key file is made, or anybody is asked for a passphrase
    secret = _kek(kek_file, kek) or passphrase(passphrase_file, f"New passphrase of {path}", confirm=True)
    store = Keystore.create(path, secret)
    document = {"keystore": str(path), "publisher": store.publisher}
    emit(
        json,
        document,
        lambda: print(f"{path}: new keystore; publisher {store.publisher} (pin this thumbprint in the app)"),
    )


@app.command()
def show(
    path: Path_ = DEFAULT_KEYSTORE,
    passphrase_file: PassphraseFile = None,
    pem: Annotated[
        bool, typer.Option("--pem", help="Print the publisher's public key as PEM, and nothing else.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the publisher's thumbprint and the bundles there are keys for. Secrets are never shown.

    Example: corelocker keystore show keys.json --pem > publisher.pem
    """
    store = open_keystore(path, passphrase_file)
    if pem:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = store.signing_key.public_key()
        print(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), end="")
        return
    document = _document(store)

    def text() -> None:
        print(f"{path}: publisher {store.publisher}")
        for old in document["publisher_keys"][1:]:
            print(f"  before: {old['thumbprint']} (made {old['created']})")
        for entry in document["bundles"]:
            print(
                f"  {entry['bundle']}: model {entry['model']}, version {entry['model_version']}, tiers {' > '.join(entry['tiers'])}"
            )

    emit(json, document, text)


@app.command()
def rotate(
    path: Path_ = DEFAULT_KEYSTORE,
    signing_key: Annotated[
        bool, typer.Option("--signing-key", help="Make a new signing key. Apps must pin it before its bundles ship.")
    ] = False,
    secret: Annotated[bool, typer.Option("--secret", help="Change the passphrase or key-encryption key.")] = False,
    keep_private: Annotated[
        bool, typer.Option("--keep-private", help="Keep the private part of the old signing key.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: NewPassphraseFile = None,
    kek_file: KekFile = None,
    kek: KekReference = None,
    json: Json = False,
) -> None:
    """Replace the signing key, the secret that protects the keystore, or both.

    Example: corelocker keystore rotate keys.json --signing-key
    """
    from corelocker.bundle.keystore import read_passphrase

    if not signing_key and not secret:
        raise typer.BadParameter("say what to rotate: --signing-key, --secret or both")
    store = open_keystore(path, passphrase_file)
    if secret:
        store.change_secret(
            _kek(kek_file, kek)
            or read_passphrase(
                file=new_passphrase_file,
                variable="CORELOCKER_NEW_PASSPHRASE",
                question=f"New passphrase of {path}",
                confirm=True,
            )
        )
    if signing_key:
        store.rotate_signing_key(keep_private=keep_private)
    done = [name for name, wanted in (("signing key", signing_key), ("secret", secret)) if wanted]
    emit(
        json,
        _document(store) | {"rotated": done},
        lambda: print(f"{path}: new {' and '.join(done)}; publisher {store.publisher}"),
    )


def _document(store: Keystore) -> dict[str, Any]:
    return {
        "keystore": str(store.path),
        "publisher": store.publisher,
        "publisher_keys": [
            {"thumbprint": k.thumbprint, "created": k.created.isoformat()} for k in store.publisher_keys
        ],
        "bundles": [
            {"bundle": str(c.bundle), "model": c.model, "model_version": c.model_version, "tiers": list(c.tiers)}
            for c in store.content_keys
        ],
    }


def _kek(file: Path | None, reference: str | None) -> Kek | None:
    from corelocker.bundle.keystore import FileKek, Kek

    if file is not None and reference is not None:
        raise typer.BadParameter("--kek and --kek-file exclude each other")
    if reference is not None:
        provider, colon, rest = reference.partition(":")
        if not colon:
            raise typer.BadParameter("--kek needs PROVIDER:REFERENCE")
        return Kek(provider, rest)
    if file is not None:
        if not file.exists():
            FileKek.generate(file)
        return Kek("file", str(file.resolve()))
    return None
