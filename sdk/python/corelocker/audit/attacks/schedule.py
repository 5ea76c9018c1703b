"""All attacks of a budget, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corelocker.audit.attacks.bench import AttackBench
from corelocker.audit.attacks.filling import base_imputation, imputation, recalibration
from corelocker.audit.attacks.queries import membership, query
from corelocker.audit.attacks.search import locate
from corelocker.audit.attacks.signs import base_signs, search_first_layer, train_signs
from corelocker.audit.attacks.target import FULL, AttackBudget, AttackTarget
from corelocker.audit.attacks.tuning import distill, fine_tune, prune
from corelocker.audit.imputation import METHODS
from corelocker.audit.results import AttackResult

if TYPE_CHECKING:
    pass


Progress = Callable[[int, int, str], None]


def run_attacks(
    target: AttackTarget,
    budget: AttackBudget = FULL,
    *,
    seed: int = 0,
    work: Path | None = None,
    only: Sequence[str] | None = None,
    progress: Progress = lambda done, total, title: None,
) -> list[AttackResult]:
    """Run the attacks of a budget one after the other.

    Args:
        work: a folder that keeps every finished piece under a hash of all that it depends on; a later call goes on from there.
        only: names of attacks to run, by their beginning ("fine-tune", "location"); all if None.
        progress: called with (done, total, what is being done).

    Attacks that train need classes or next tokens as labels and are left out where there are none (`AttackBench.trainable`).

    Raises ConfigError when the state does not fit the module, FileAccessError for a work folder that cannot be used.
    """
    bench = AttackBench(target, budget, seed, work)
    jobs = [(n, j) for n, j in _jobs(bench) if only is None or any(n.startswith(o) for o in only)]
    results: list[AttackResult] = []
    for done, (name, job) in enumerate(jobs):
        progress(done, len(jobs), name)
        results += job()
    progress(len(jobs), len(jobs), "")
    return results


def _jobs(bench: AttackBench) -> Iterator[tuple[str, Callable[[], list[AttackResult]]]]:
    target, budget = bench.target, bench.budget
    yield "location", lambda: locate(bench)
    yield "bn-recalibration", lambda: recalibration(bench)
    for method in METHODS:
        yield f"imputation-{method}", lambda method=method: [imputation(bench, method)]  # type: ignore[misc]
    if target.base is not None and bench.trainable:
        yield "base-imputation", lambda: base_imputation(bench)
    yield "membership", lambda: membership(bench)
    if target.signs:
        yield "signs-first-layer", lambda: search_first_layer(bench)
        if target.base is not None:
            yield "signs-base", lambda: base_signs(bench)
    if not bench.trainable:
        return
    for share in budget.pruned:
        yield "pruning", lambda share=share: list(prune(bench, share))  # type: ignore[misc]
    yield "distillation", lambda: distill(bench)
    yield "unlocked-answers", lambda: [query(bench)]
    if target.signs:
        for how in ("soft", "straight-through"):
            yield f"signs-{how}", lambda how=how: [train_signs(bench, how)]  # type: ignore[misc]
    for share in budget.shares:
        for knowledge, reach in budget.variants:
            yield (
                "fine-tune",
                lambda share=share, knowledge=knowledge, reach=reach: [  # type: ignore[misc]
                    fine_tune(bench, share, knowledge, reach)
                ],
            )
