"""`corelocker compare`: what two published files of one model reveal together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import Json, KeystorePath, PassphraseFile, Publisher, emit, human, open_keystore, wide_console
from corelocker.cli.app import publisher_thumbprint as thumbprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corelocker.locking.compare import LayerComparison, LayerExposure

SHOWN = ("open", "sign", "value")  # the levels, as the outputs name what is hidden
WORDS = {"open": "open", "sign": "locked by sign", "value": "locked by value"}


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
    """Say what two published files of one model reveal together, weight by weight.

    Anybody who has both files sees which weights differ: where only one file is locked, the other holds the original. With both key
    bundles the keystore's records tell what each file hides, and so what both hide together.

    Example: corelocker compare dist/v1/scanner.pte dist/v2/scanner.pte
    --bundle dist/v1/scanner.clkey --bundle dist/v2/scanner.clkey
    """
    from corelocker.artifacts import open_artifact
    from corelocker.bundle.clkey import KeyBundle
    from corelocker.errors import ConfigError
    from corelocker.locking.compare import compare as compare_files
    from corelocker.locking.compare import exposure
    from corelocker.runtime.whole import verify

    if bundle and len(bundle) != 2:
        raise ConfigError("--bundle is given twice, once for each model, or not at all")
    exposed = None
    opened = open_artifact(first), open_artifact(second)
    if bundle:
        bundles = [KeyBundle.open(path, thumbprint(publisher)) for path in bundle]
        for path, of_it in zip((first, second), bundles, strict=True):
            verify(path, of_it)  # given in the other order, each file would get what the other hides
        store = open_keystore(keystore, passphrase_file)
        one, other = (store.lock_record(found.id) for found in bundles)
        exposed = exposure(one, other, opened[0].tensors)
    document = _document(compare_files(*opened), exposed)
    emit(json, document, lambda: _print(document))


def _document(layers: Sequence[LayerComparison], exposed: Sequence[LayerExposure] | None) -> dict[str, Any]:
    weights = sum(layer.weights for layer in layers)
    kinds = ("same", "signs", "values")
    return {
        "weights": weights,
        "share": {kind: sum(getattr(layer, kind) for layer in layers) / max(1, weights) for kind in kinds},
        "layers": [
            {"name": x.name, "weights": x.weights, "same": x.same, "signs": x.signs, "values": x.values} for x in layers
        ],
        "exposure": None if exposed is None else _exposure(exposed),
    }


def _exposure(layers: Sequence[LayerExposure]) -> dict[str, Any]:
    """What the two locks hide, in total and layer by layer."""
    import numpy as np

    weights = sum(layer.weights for layer in layers)
    total = np.sum([layer.counts for layer in layers], axis=0)
    combinations = [_combination(layers, a, b) for a, b in np.argwhere(total).tolist()]
    weaker = [found for found in combinations if found["first"] != found["second"]]
    rows = [
        {"name": layer.name, "weights": layer.weights, "bytes": _bytes(layer, layer.weights)} | _hidden(layer.counts)
        for layer in layers
    ]
    return {
        "weights": weights,
        "bytes": sum(row["bytes"] for row in rows),
        **_hidden(total),
        "open_bytes": sum(_bytes(layer, _hidden(layer.counts)["together"]["open"]) for layer in layers),
        "combinations": combinations,
        "weakest": max(weaker, key=lambda found: (found["together"] == "open", found["weights"]), default=None),
        "layers": rows,
    }


def _combination(layers: Sequence[LayerExposure], first: int, second: int) -> dict[str, Any]:
    """The weights of which the two files hide so much each."""
    counts = [int(layer.counts[first, second]) for layer in layers]
    return {
        "first": SHOWN[first],
        "second": SHOWN[second],
        "together": SHOWN[min(first, second)],
        "weights": sum(counts),
        "bytes": sum(_bytes(layer, count) for layer, count in zip(layers, counts, strict=True)),
        "layer": layers[counts.index(max(counts))].name,
    }


def _hidden(counts: Any) -> dict[str, dict[str, int]]:
    """Weights that are open, whose signs are hidden, and whose values are: in each file, and for whoever has both."""
    both = [int(counts[a:, a:].sum()) for a in range(len(SHOWN))] + [0]
    return {
        "first": dict(zip(SHOWN, (int(n) for n in counts.sum(axis=1)), strict=True)),
        "second": dict(zip(SHOWN, (int(n) for n in counts.sum(axis=0)), strict=True)),
        "together": {name: both[a] - both[a + 1] for a, name in enumerate(SHOWN)},
    }


def _bytes(layer: LayerExposure, weights: int) -> int:
    return weights * layer.bits // 8


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    console = wide_console()
    table = Table("layer", "weights", "same", "signs differ", "values differ")
    for layer in document["layers"]:
        table.add_row(layer["name"], str(layer["weights"]), *(_share(layer, layer[kind]) for kind in document["share"]))
    console.print(table)
    same, signs, values = (100 * document["share"][key] for key in ("same", "signs", "values"))
    console.print(
        f"{same:.1f} % of the weights are the same in both files, {signs:.1f} % differ in their signs alone, "
        f"{values:.1f} % differ in their values.",
        highlight=False,
    )
    exposed = document["exposure"]
    if exposed is not None:
        _print_exposure(exposed)
    elif signs + values > 0:
        console.print(
            "Where they differ, at least one is locked; where only one is, the other holds the original. "
            "Pass both bundles with --bundle for exact figures.",
            highlight=False,
        )


def _print_exposure(exposed: dict[str, Any]) -> None:
    from rich.table import Table

    console = wide_console()
    table = Table("layer", "weights", "open in the first", "in the second", "for both", "sign hidden", "value hidden")
    for row in exposed["layers"]:
        counts = (row["first"]["open"], row["second"]["open"], *(row["together"][name] for name in SHOWN))
        table.add_row(row["name"], str(row["weights"]), *(_share(row, count) for count in counts))
    console.print(table)
    both = exposed["together"]
    console.print(
        f"Whoever has both files has {both['open']} of {exposed['weights']} weights ({_share(exposed, both['open'])}, "
        f"{human(exposed['open_bytes'])}), and of {_share(exposed, both['sign'])} all but the signs. Both files hide "
        f"the values of {_share(exposed, both['value'])}.",
        highlight=False,
    )
    weakest = exposed["weakest"]
    if weakest is None:
        console.print("Neither file reveals what the other one hides.", highlight=False)
        return
    left = "nothing of them stays hidden" if weakest["together"] == "open" else "their magnitudes are known"
    console.print(
        f"Weakest combination: {WORDS[weakest['first']]} in the first file and {WORDS[weakest['second']]} in the second: {left}. "
        f"{weakest['weights']} weights ({_share(exposed, weakest['weights'])}, {human(weakest['bytes'])}), most of them in "
        f"{weakest['layer']}.",
        highlight=False,
    )


def _share(of: dict[str, Any], count: int) -> str:
    return f"{100 * count / max(1, of['weights']):.1f} %"
