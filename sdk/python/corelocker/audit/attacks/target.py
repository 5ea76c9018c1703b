"""A locked model under attack, and what its attacker may know and spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from corelocker.audit import need
from corelocker.audit.data import DataSet, Metric, load_metric
from corelocker.audit.models import Mask, TieredModel
from corelocker.audit.training import TrainingRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn


Knowledge = Literal["none", "guessed", "known", "known-readers"]
Reach = Literal["all", "mostly-locked", "locked"]
ADAMW = 0.04  # its learning rate for each of SGD's


@dataclass(frozen=True)
class AttackTarget:
    """A locked model under attack, and what its attacker can have.

    Attributes:
        module: the architecture; its weights do not matter.
        original, state: state dicts, unlocked and as shipped.
        channels, elements: what is locked, as in `TierState`.
        train: all data like the training data; an attack gets a share of it.
        test: never trained on.
        metric: of utility.
        tier: name of the tier.
        base: state dict of the public checkpoint that the model was tuned from, where there is one.
        signs: whether the elements are without their signs alone, so that the attacker knows their magnitudes.
    """

    module: nn.Module = field(repr=False)
    original: Mapping[str, Tensor] = field(repr=False)
    state: Mapping[str, Tensor] = field(repr=False)
    channels: Mapping[str, Mask] = field(repr=False)
    elements: Mapping[str, Mask] = field(repr=False)
    train: DataSet
    test: DataSet
    metric: Metric = field(default_factory=load_metric)
    tier: str = "free"
    base: Mapping[str, Tensor] | None = field(default=None, repr=False)
    signs: bool = False

    @classmethod
    def of(
        cls,
        module: nn.Module,
        locked: TieredModel,
        train: DataSet,
        test: DataSet,
        metric: Metric | None = None,
        tier: str | None = None,
        base: Mapping[str, Tensor] | None = None,
    ) -> AttackTarget:
        """A tier of a locked model, the one that ships if none is named."""
        state = locked.shipped if tier is None else locked.tier(tier)
        return cls(
            module, locked.original, state.state, state.channels, state.elements, train, test,
            metric or load_metric(), state.name, base, state.signs,
        )  # fmt: skip


@dataclass(frozen=True)
class AttackBudget:
    """What the attacker may spend.

    Attributes:
        shares: fractions of the training data for fine-tuning; the attacks besides use `share`.
        recipe: of every training.
        scratch_recipe: of training from scratch, where it is another one.
        variants: what fine-tuning knows and moves: see `fine_tune`.
        share: of the training data for recalibration, regrowing, distillation with labels and tuning from a base.
        most: samples at most, whatever the share; 0 for no limit.
        detector_samples: samples that location detectors may run.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)
    recipe: TrainingRecipe = field(default_factory=TrainingRecipe)
    scratch_recipe: TrainingRecipe | None = None
    variants: tuple[tuple[Knowledge, Reach], ...] = (
        ("known", "all"),
        ("known", "mostly-locked"),
        ("known-readers", "all"),
        ("known-readers", "mostly-locked"),
        ("known", "locked"),
        ("guessed", "all"),
        ("none", "all"),
    )
    share: float = 0.1
    pruned: tuple[float, ...] = (0.2, 0.4)
    most: int = 0
    detector_samples: int = 256


FULL = AttackBudget()
QUICK = AttackBudget(
    shares=(0.1,),
    recipe=TrainingRecipe(epochs=3, learning_rates=(0.05,)),
    variants=(("known", "all"), ("none", "all")),
    pruned=(0.4,),
    most=500,
    detector_samples=128,
)


def suited(budget: AttackBudget, module: nn.Module) -> AttackBudget:
    """The budget with the optimizer that such a network is trained with: AdamW for transformers and recurrent networks, which
    plain SGD hardly moves; an attacker would not use it."""
    torch = need("torch")
    kinds = (torch.nn.LayerNorm, torch.nn.RMSNorm, torch.nn.Embedding, torch.nn.RNNBase, torch.nn.MultiheadAttention)
    norms = torch.nn.modules.batchnorm._BatchNorm
    if any(isinstance(m, norms) for m in module.modules()) or not any(isinstance(m, kinds) for m in module.modules()):
        return budget
    rates = tuple(rate * ADAMW for rate in budget.recipe.learning_rates)
    return replace(budget, recipe=replace(budget.recipe, optimizer="adamw", learning_rates=rates, weight_decay=0.01))
