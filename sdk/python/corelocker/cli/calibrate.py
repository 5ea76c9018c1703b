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
    UnitOption,
    lock_options,
)

if TYPE_CHECKING:
    from corelocker.audit.calibrate_plan import CalibratedTier
    from corelocker.audit.calibrate_recovery import RecoveryCalibration


def calibrate(
    model: Annotated[Path, typer.Argument(help="A finished model, not locked.")],
    data: Annotated[str, typer.Option(help=".npz with x and y, or package.module:function that returns them.")],
    out: Annotated[Path, typer.Option(help="The plan, for `corelocker lock --plan`. It is secret.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="TIER=UTILITY, repeatable: first the tier that ships, then those worth more."),
    ] = None,
    recovered: Annotated[
        float | None,
        typer.Option(
            help="In place of targets: the share of the gap that an attacker with 10 % of the data may regain."
        ),
    ] = None,
    train_data: Annotated[
        str | None, typer.Option(help="With --recovered: what the attacker has a tenth of; half of --data without it.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --recovered: shorter trainings, for a first look.")
    ] = False,
    work: Annotated[
        Path | None, typer.Option(help="With --recovered: keep finished trainings here, and go on from there.")
    ] = None,
    full: Annotated[str, typer.Option(help="Name of the last tier, which restores everything.")] = "full",
    metric: Annotated[
        str, typer.Option(help="top-1, top-5, perplexity, or package.module:function of (outputs, labels).")
    ] = "top-1",
    tolerance: Annotated[
        float, typer.Option(help="A utility this much better than the target is close enough.")
    ] = 0.01,
    most: Annotated[float, typer.Option(min=0.001, max=0.95, help="Largest fraction of channels to try.")] = 0.5,
    unit: UnitOption = "value",
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

    Every step locks the model in memory and measures it. A target that even one locked channel misses gets that one channel,
    and the command ends with 1.

    With --recovered, find the smallest lock that an attacker does not train back. It ends with 1 when none holds.

    Example: corelocker calibrate classifier.pte --data test.npz --target free=0.60 --target plus=0.85 --out plan.json

    Example: corelocker calibrate classifier.pte --data test.npz --train-data train.npz --model shop.models:classifier
    --recovered 0.1 --unit sign --include-io --out plan.json
    """
    from corelocker.audit.calibrate_plan import calibrate_plan
    from corelocker.errors import ConfigError

    if bool(target) == (recovered is not None):
        raise ConfigError("give either --target or --recovered", hint="For example --target free=0.60")
    options = lock_options(
        unit=unit, criterion=criterion, scope=scope, fill=fill, consumers=consumers, include_io=include_io, exclude=exclude,
        source=source, model=model_factory, input_stats=input_stats, seed=seed,
    )  # fmt: skip
    if recovered is not None:
        from corelocker.audit.calibrate_recovery import calibrate_recovery

        with progress_bar(json) as show:
            curve = calibrate_recovery(
                model, data, recovered, out, options=options, full=full, metric=metric, train_data=train_data, quick=quick,
                work=work, force=force, progress=show,
            )  # fmt: skip
        _report_recovery(curve, recovered, out, json)
        return
    with progress_bar(json) as show:
        found = calibrate_plan(
            model,
            data,
            target or [],
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
    if not all(tier.found is None or tier.found.reached for tier in found.tiers):
        raise typer.Exit(1)


def _report_recovery(curve: RecoveryCalibration, bound: float, out: Path, as_json: bool) -> None:
    held = curve.plan is not None
    result = {
        "plan": str(out) if held else None,
        "metric": curve.metric,
        "recovered": bound,
        "held": held,
        "curve": [vars(point) for point in curve.points],
    }
    emit(as_json, result, lambda: _print_recovery(result))
    if not held:
        raise typer.Exit(1)


def _print_recovery(result: dict[str, Any]) -> None:
    from rich.table import Table

    console = wide_console()
    table = Table(
        "channels locked", "access key", "gap regained", "strongest attack", "reaches", "from scratch", "original"
    )
    for point in result["curve"]:
        table.add_row(
            f"{100 * point['removed']:.1f} %",
            f"{human(point['locked_bytes'])}, {100 * point['locked_fraction']:.2g} %",
            f"{100 * max(0.0, point['regained']):.0f} %",
            point["attack"],
            *(f"{point[key]:.4g}" for key in ("recovered", "scratch", "original")),
        )
    console.print(table)
    if result["held"]:
        console.print(f"plan: {result['plan']}; keep it secret", highlight=False)
    else:
        console.print(
            f"No lock holds an attacker to {100 * result['recovered']:g} % of the gap. No plan was written. Try --unit sign "
            "--include-io, or serve a part of the model from a server.",
            highlight=False,
        )


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
