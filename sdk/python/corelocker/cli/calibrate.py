"""`corelocker calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import Force, Json, emit, human, progress_bar, wide_console
from corelocker.cli.lock import (
    Consumers,
    Exclude,
    IncludeIo,
    InputStatistics,
    OptionalCriterion,
    OptionalFill,
    OptionalScope,
    Seed,
    Source,
    lock_options,
)

if TYPE_CHECKING:
    from corelocker.audit.calibrate_plan import CalibratedTier


def calibrate(
    model: Annotated[Path, typer.Argument(help="A finished model, not locked.")],
    data: Annotated[str, typer.Option(help=".npz with x and y, or package.module:function that returns them.")],
    target: Annotated[
        list[str], typer.Option(help="TIER=UTILITY, repeatable: first the tier that ships, then those worth more.")
    ],
    out: Annotated[Path, typer.Option(help="The plan, for `corelocker lock --plan`. It is secret.")],
    full: Annotated[str, typer.Option(help="Name of the last tier, which restores everything.")] = "full",
    metric: Annotated[
        str, typer.Option(help="top-1, top-5, perplexity, or package.module:function of (outputs, labels).")
    ] = "top-1",
    tolerance: Annotated[
        float, typer.Option(help="A utility this much better than the target is close enough.")
    ] = 0.01,
    most: Annotated[float, typer.Option(min=0.001, max=0.95, help="Largest fraction of channels to try.")] = 0.5,
    criterion: OptionalCriterion = None,
    scope: OptionalScope = None,
    fill: OptionalFill = None,
    consumers: Consumers = False,
    include_io: IncludeIo = False,
    exclude: Exclude = None,
    source: Source = None,
    model_factory: Annotated[
        str | None,
        typer.Option(
            "--model", help="package.module:factory of the torch module: for checkpoints and for sensitivity."
        ),
    ] = None,
    input_stats: InputStatistics = None,
    seed: Seed = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Find the tiers' fractions at which a model is worth what you want, and write the plan that locks it so.

    Every step locks the model in memory and measures it. A target that even one locked channel misses gets that one channel.

    Example: corelocker calibrate classifier.pte --data test.npz --target free=0.60 --target plus=0.85 --out plan.json
    """
    from corelocker.audit.calibrate_plan import calibrate_plan

    options = lock_options(
        criterion=criterion, scope=scope, fill=fill, consumers=consumers, include_io=include_io, exclude=exclude,
        source=source, model=model_factory, input_stats=input_stats, seed=seed,
    )  # fmt: skip
    with progress_bar(json) as show:
        found = calibrate_plan(
            model,
            data,
            target,
            out,
            options=options,
            full=full,
            metric=metric,
            tolerance=tolerance,
            most=most,
            force=force,
            progress=show,
        )
    result = {
        "plan": str(out),
        "metric": found.metric,
        "samples": found.samples,
        "chance": found.chance,
        "tiers": [_row(tier) for tier in found.tiers],
        "evaluations": [vars(step) for step in found.evaluations],
    }
    emit(json, result, lambda: _print(result))


def _row(tier: CalibratedTier) -> dict[str, Any]:
    measured, found = tier.measured, tier.found
    return {
        "name": measured.name,
        "target": found.target.utility if found else None,
        "reached": found.reached if found else True,
        "removed": tier.removed,
        "utility": measured.utility.value,
        "low": measured.utility.low,
        "high": measured.utility.high,
        "locked_bytes": measured.locked_bytes,
        "locked_fraction": measured.locked_fraction,
    }


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    console = wide_console()
    table = Table("tier", "target", result["metric"], "95 % interval", "channels locked", "key still missing")
    for row in result["tiers"]:
        table.add_row(
            row["name"],
            "" if row["target"] is None else f"{row['target']:g}" + ("" if row["reached"] else " (missed)"),
            f"{row['utility']:.4g}",
            f"{row['low']:.4g} to {row['high']:.4g}",
            f"{100 * row['removed']:.2f} %",
            human(row["locked_bytes"]),
        )
    console.print(table)
    console.print(f"plan: {result['plan']} ({len(result['evaluations'])} evaluations); keep it secret", highlight=False)
