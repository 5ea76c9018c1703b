"""`corelocker compare`: what two published files of one model reveal together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import Json, KeystorePath, PassphraseFile, Publisher, emit, open_keystore, wide_console
from corelocker.cli.app import publisher_thumbprint as thumbprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corelocker.locking.compare import LayerComparison, LayerExposure


def compare(
    first: Annotated[Path, typer.Argument(help="A locked model.")],
    second: Annotated[Path, typer.Argument(help="Another locked file of the same model.")],
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="The key bundles, in the order of the models: exact figures, with the keystore's records."),
    ] = None,
    publisher: Publisher = None,
    keystore: KeystorePath = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Say what two published files of one model reveal together.

    Anybody who has both files sees in which channels they differ: where only one of them is locked, the other holds the original.
    With both key bundles the keystore's records tell which channels these are.

    Example: corelocker compare dist/v1/scanner.pte dist/v2/scanner.pte
    --bundle dist/v1/scanner.clkey --bundle dist/v2/scanner.clkey
    """
    from corelocker.artifacts import open_artifact
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.errors import ConfigError
    from corelocker.locking.compare import compare as compare_files
    from corelocker.locking.compare import exposure

    if bundle and len(bundle) != 2:
        raise ConfigError("--bundle is given twice, once for each model, or not at all")
    layers = compare_files(open_artifact(first), open_artifact(second))
    exposed = None
    if bundle:
        store = open_keystore(keystore, passphrase_file)
        opened = [KeyBundle.open(path, thumbprint(publisher)) for path in bundle]
        exposed = exposure(*(store.lock_record(found.id) for found in opened))
    document = _document(layers, exposed)
    emit(json, document, lambda: _print(document))


def _document(layers: Sequence[LayerComparison], exposed: Sequence[LayerExposure] | None) -> dict[str, Any]:
    weights = sum(layer.weights for layer in layers)
    share = {
        kind: sum(layer.weights * getattr(layer, kind) / layer.channels for layer in layers) / weights
        for kind in ("same", "signs", "values")
    }
    document: dict[str, Any] = {
        "share": share,
        "layers": [
            {"name": x.name, "channels": x.channels, "same": x.same, "signs": x.signs, "values": x.values}
            for x in layers
        ],
        "exposure": None,
    }
    if exposed is not None:
        document["exposure"] = {
            "only_first": sum(x.only_first for x in exposed),
            "only_second": sum(x.only_second for x in exposed),
            "both": sum(x.both for x in exposed),
            "layers": [
                {"name": x.name, "channels": x.channels, "only_first": x.only_first, "only_second": x.only_second, "both": x.both}
                for x in exposed
            ],
        }  # fmt: skip
    return document


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    console = wide_console()
    table = Table("layer", "channels", "same", "signs differ", "values differ")
    for layer in document["layers"]:
        table.add_row(*(str(layer[key]) for key in ("name", "channels", "same", "signs", "values")))
    console.print(table)
    same, signs, values = (100 * document["share"][key] for key in ("same", "signs", "values"))
    console.print(
        f"{same:.1f} % of the weights are the same in both files, {signs:.1f} % differ in their signs alone, "
        f"{values:.1f} % differ in their values.",
        highlight=False,
    )
    exposed = document["exposure"]
    if exposed is None:
        if signs + values > 0:
            console.print(
                "Where they differ, at least one is locked; where only one is, the other holds the original. "
                "Pass both bundles with --bundle for exact figures.",
                highlight=False,
            )
        return
    open_by_other = exposed["only_first"] + exposed["only_second"]
    console.print(
        f"The first file locks {exposed['only_first']} channels that the second leaves open, the second "
        f"{exposed['only_second']} that the first leaves open; {exposed['both']} are locked in both.",
        highlight=False,
    )
    console.print(
        f"Together they hide {exposed['both']} channels."
        if open_by_other
        else "Together they reveal no more than each of them alone.",
        highlight=False,
    )
