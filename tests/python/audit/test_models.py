"""Locking a torch model in memory, by the product's own path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corelocker.artifacts.safetensors import open_safetensors
from corelocker.artifacts.torch_module import plain_state
from corelocker.audit.models import TieredModel, lock_model, trace_graph
from corelocker.errors import CoreLockerError, LockingError, TierError
from corelocker.locking.drawing import lock_artifacts
from safetensors.torch import save_file
from torch import nn

TIERS = "free=0.25,plus=0.125,full=0"


class Net(nn.Module):
    """Input (n, 3, 8, 8), output (n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.conv3 = nn.Conv2d(24, 32, 1)
        self.fc = nn.Linear(32, 5)
        for norm in (self.bn1, self.bn2):  # a fresh BatchNorm has equal numbers, and a decoy of one is the same
            for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                value.copy_(torch.rand_like(value) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(torch.relu(self.conv3(x)).mean((2, 3)))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """Elementwise equality of the stored bits."""
    raw = [np.ascontiguousarray(t.reshape(-1).view(torch.uint8).numpy()).reshape(-1, t.element_size()) for t in (a, b)]
    return (raw[0] == raw[1]).all(axis=1).reshape(tuple(a.shape))


@pytest.fixture(scope="module")
def locked() -> TieredModel:
    return lock_model(Net(), tiers=TIERS, criterion="l1")


def test_the_last_tier_is_the_original_and_the_module_stays(locked: TieredModel) -> None:
    module = Net()
    lock_model(module, tiers=TIERS)
    for name, value in Net().state_dict().items():
        assert same_bits(value, module.state_dict()[name]).all()
        assert same_bits(value, locked.tiers[-1].state[name]).all()
    assert locked.tiers[-1].locked_bytes == 0
    assert not locked.tiers[-1].elements


def test_masks_tell_exactly_which_elements_changed(locked: TieredModel) -> None:
    for tier in locked.tiers:
        for name, value in locked.original.items():
            mask = tier.elements.get(name, np.zeros(tuple(value.shape), bool))
            assert (same_bits(value, tier.state[name]) == ~mask).all(), (tier.name, name)
        assert sum(int(m.sum()) for m in tier.elements.values()) * 4 == tier.locked_bytes


def test_tiers_are_nested_and_their_patches_add_up(locked: TieredModel) -> None:
    free, plus, full = locked.tiers
    assert free.locked_bytes == plus.patch_bytes + full.patch_bytes
    assert plus.locked_bytes == full.patch_bytes
    for name, mask in plus.channels.items():
        assert (free.channels[name] | ~mask).all()
    assert [int(free.channels["conv2.weight"].sum()), int(plus.channels["conv2.weight"].sum())] == [6, 3]
    assert not free.channels["conv1.weight"].any()  # input layer
    assert locked.left_alone["fc.weight"] == "output layer"


def test_a_channel_takes_its_bias_and_batch_norm_along(locked: TieredModel) -> None:
    rows = locked.shipped.channels["conv2.weight"]
    for name in ("conv2.bias", "bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var"):
        assert (locked.shipped.elements[name] == rows).all()
    assert "bn2.num_batches_tracked" not in locked.shipped.elements


def test_it_is_what_locking_the_file_gives(tmp_path: Path, locked: TieredModel) -> None:
    path = tmp_path / "model.safetensors"
    save_file(plain_state(Net()), path)
    artifact = open_safetensors(path)
    (file,) = lock_artifacts([artifact], locked.plan)[0].files
    data = file.file.data.copy()
    file.overlay.apply(0, data, 0)
    from safetensors.torch import load

    for name, value in load(data.tobytes()).items():
        assert same_bits(value, locked.shipped.state[name]).all()


def test_a_seed_makes_it_repeatable_and_another_draws_other_decoys() -> None:
    one, two, other = (lock_model(Net(), tiers=TIERS, seed=s).shipped.state for s in ("a", "a", "b"))
    assert all(same_bits(one[n], two[n]).all() for n in one)
    assert not same_bits(one["conv2.weight"], other["conv2.weight"]).all()


def test_zero_fill_is_zero_and_decoys_are_finite() -> None:
    zero = lock_model(Net(), tiers=TIERS, fill="zero").shipped
    assert not zero.state["conv3.weight"].numpy()[zero.elements["conv3.weight"]].any()
    decoy = lock_model(Net(), tiers=TIERS).shipped
    assert all(bool(torch.isfinite(v.float()).all()) for v in decoy.state.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in Net().state_dict().items()}
    tier = lock_model(state, tiers=TIERS).shipped
    assert tier.state["conv2.weight"].dtype == dtype
    assert sum(int(m.sum()) for m in tier.elements.values()) * 2 == tier.locked_bytes


def test_own_scores_and_own_channels() -> None:
    scores = {"conv2.weight": np.arange(24.0), "conv3.weight": np.arange(32.0)[::-1].copy()}
    tier = lock_model(Net(), tiers="free=0.25,full=0", scores=scores).shipped
    assert np.flatnonzero(tier.channels["conv2.weight"]).tolist() == list(range(18, 24))
    assert np.flatnonzero(tier.channels["conv3.weight"]).tolist() == list(range(8))
    chosen = np.zeros(16, np.uint8)
    chosen[[1, 5]] = 1, 2
    fixed = lock_model(Net(), tiers=TIERS, tier_of={"conv1.weight": chosen})
    assert np.flatnonzero(fixed.tiers[0].channels["conv1.weight"]).tolist() == [1, 5]
    assert np.flatnonzero(fixed.tiers[1].channels["conv1.weight"]).tolist() == [5]
    only = lock_model(Net(), tiers=TIERS, layers=["conv3.weight"]).shipped
    assert [n for n, m in only.channels.items() if m.any()] == ["conv3.weight"]


def test_consumers_follow_the_traced_graph() -> None:
    module = Net().eval()
    graph = trace_graph(module, (torch.zeros(1, 3, 8, 8),))
    assert [e.consumer for e in graph.edges["conv2.weight"]] == ["conv3.weight"]
    tier = lock_model(module, tiers="free=0.25,full=0", consumers=True, graph=graph).shipped
    read = tier.channels["conv2.weight"]
    rows = tier.channels["conv3.weight"]
    expected = rows[:, None] | read[None, :]
    assert (tier.elements["conv3.weight"][:, :, 0, 0] == expected).all()
    assert not module.training


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tiers": "free=0.1"}, TierError),
        ({"consumers": True}, LockingError),
        ({"scores": {"conv2.weight": np.zeros(3)}}, LockingError),
        ({"layers": ["conv9.weight"]}, LockingError),
        ({"tier_of": {"conv2.weight": np.zeros(3, np.uint8)}}, LockingError),
        ({"tier_of": {"conv2.weight": np.full(24, 9, np.uint8)}}, LockingError),
        ({"tier_of": {"nothing": np.zeros(3, np.uint8)}}, LockingError),
    ],
)
def test_what_cannot_be_locked_is_refused(options: dict[str, object], error: type[CoreLockerError]) -> None:
    with pytest.raises(error):
        lock_model(Net(), **options)  # type: ignore[arg-type]
