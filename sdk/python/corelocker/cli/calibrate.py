"""`corelocker calibrate`."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import Force, Json, emit, human, progress_bar, wide_console
from corelocker.cli.lock import (
    Consumers,
    Exclude,
    IncludeIo,
    InputStatistics,
    LockOptions,
    OptionalCriterion,
    OptionalFill,
    OptionalScope,
    Seed,
    Source,
    choose,
)
from corelocker.errors import ConfigError, OutputExistsError

if TYPE_CHECKING:
    from corelocker.locking.plan import Plan


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
    from corelocker.artifacts.detect import open_artifact
    from corelocker.audit.calibrate import calibrate as search
    from corelocker.audit.calibrate import parse_targets
    from corelocker.audit.data import load_data, load_metric
    from corelocker.audit.utility import Evaluator, Subject, states_of_plan
    from corelocker.locking.tiers import Tier, check_tiers

    if out.exists() and not force:
        raise OutputExistsError(f"{out} exists already", hint="Choose another --out or pass --force")
    measured_by = load_metric(metric)
    targets = parse_targets(target, measured_by.higher_is_better)
    check_tiers([Tier(t.name, 1 - (i + 1) / (len(targets) + 1)) for i, t in enumerate(targets)] + [Tier(full, 0.0)])
    options = LockOptions(
        None, criterion, scope, fill, consumers, include_io, tuple(exclude or ()), source, seed, None, None, model_factory,
        input_stats,
    )  # fmt: skip
    with progress_bar(json) as show:
        scorer = None
        module, example = None, None
        if model_factory is not None:
            from corelocker.factories import call_factory
            from corelocker.locking.criteria.sensitivity import SensitivityScorer
            from corelocker.locking.criteria.synthetic import InputStats

            if criterion == "sensitivity":
                stats = None if input_stats is None else InputStats.parse(input_stats)
                scorer = SensitivityScorer.from_factory(model_factory, fill=fill or "decoy", stats=stats, progress=show)
                module, example = scorer.module, scorer.example[0]
            else:
                made = call_factory(model_factory)
                if not isinstance(made, tuple) or len(made) < 2 or not isinstance(made[1], tuple) or not made[1]:
                    raise ConfigError(f"{model_factory}: must return (module, (example input,))")
                module, example = made[0].eval(), made[1][0]
        artifact = open_artifact(model)
        subject = Subject(artifact, Evaluator(artifact, module), load_data(data, example), measured_by)
        secret = secrets.token_bytes(32) if seed is None else seed.encode()

        def plan_of(tiers: list[Tier]) -> Plan:
            asked = replace(options, tiers=check_tiers(tiers))
            return choose([artifact], asked, secret, lambda stage, done, total: None, scorer)

        def worth(removed: float) -> float:
            states, _, _ = states_of_plan(artifact, plan_of([Tier("free", removed), Tier("full", 0.0)]))
            return subject.utility(states[0].files).value

        trial = plan_of([Tier("free", 0.05), Tier("full", 0.0)])
        channels = sum(map_.size for map_ in trial.tier_of[0].values())
        found, course = search(
            worth,
            targets,
            channels,
            higher_is_better=measured_by.higher_is_better,
            tolerance=tolerance,
            most=most,
            progress=lambda done, total: show("measure", done, total),
        )
        plan = plan_of([*(Tier(f.target.name, f.removed) for f in found), Tier(full, 0.0)])
        states, _, _ = states_of_plan(artifact, plan)
        tiers = subject.tiers(states)
    plan.save(out, force=force)
    rows: list[dict[str, Any]] = []
    for index, tier in enumerate(tiers):
        calibrated = found[index] if index < len(found) else None
        rows.append(
            {
                "name": tier.name,
                "target": calibrated.target.utility if calibrated else None,
                "reached": calibrated.reached if calibrated else True,
                "removed": plan.tiers[index].removed,
                "utility": tier.utility.value,
                "low": tier.utility.low,
                "high": tier.utility.high,
                "locked_bytes": tier.locked_bytes,
                "locked_fraction": tier.locked_fraction,
            }
        )
    result = {
        "plan": str(out),
        "metric": measured_by.name,
        "samples": len(subject.data),
        "chance": subject.chance,
        "tiers": rows,
        "evaluations": [vars(step) for step in course],
    }
    emit(json, result, lambda: _print(result))


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
