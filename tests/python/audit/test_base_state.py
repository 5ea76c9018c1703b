"""A public base as a state of the audited module, whatever form it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from corelocker.artifacts.torch_module import open_state, plain_state
from corelocker.audit.attacks import run_attacks
from corelocker.audit.base_state import base_state
from corelocker.audit.models import lock_model
from corelocker.errors import ConfigError
from support.attack_subjects import TINY, target, trained
from support.models import exports, nets
from torch import Tensor, nn

State = dict[str, Tensor]


def tuned(base: Mapping[str, Tensor], seed: int = 3) -> State:
    """A little moved, with BatchNorms of its own."""
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, value in base.items():
        noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.zeros(1)
        much = 0.1 * value.std(correction=0) if value.is_floating_point() else 0
        moved[name] = value if not value.is_floating_point() else value + much * noise
        if name.endswith("running_var"):
            moved[name] = value * (1 + 0.3 * noise).abs() + 0.05
    return moved


def outputs(network: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    network.load_state_dict(dict(state), strict=True)
    with torch.no_grad():
        found: Tensor = network.eval()(x)
    return found


def turned(network: nn.Module) -> nn.Module:
    """With negative gammas in half of the channels: the signs of folded weights are not those of the weights."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::2] *= -1
    return network


def folded(state: State) -> State:
    """A network of `support.attack_subjects` as an exporter leaves it, under names of its own."""
    found = {}
    for place, name in enumerate(name for name in state if state[name].ndim == 4):
        norm = name.replace(f".{3 * place}.", f".{3 * place + 1}.").removesuffix("weight")
        gamma, beta, mean, variance = (state[norm + leaf] for leaf in ("weight", "bias", "running_mean", "running_var"))
        scale = gamma / (variance + 1e-5).sqrt()
        found[f"c{place}.weight"] = state[name] * scale[:, None, None, None]
        found[f"c{place}.bias"] = beta - mean * scale
    return found | {"out.weight": state["classifier.weight"], "out.bias": state["classifier.bias"]}


def test_a_finished_program_as_base_does_what_it_does() -> None:
    """Its BatchNorms are folded; before the tuned model's own its layers still compute what the program computes."""
    network, inputs = nets.build("resnet")
    public, x = plain_state(network), torch.randn(4, *inputs[0].shape[1:])
    wanted = outputs(network, public, x)
    own = tuned(public)
    assert (outputs(network, own, x) - wanted).abs().max() > 0.05 * wanted.abs().max()
    found = base_state(exports.exported("resnet", "xnnpack"), own)
    assert outputs(network, own | found, x) == pytest.approx(wanted, abs=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("form", ["checkpoint", "folded", "unfolded"])
def test_signs_and_function_of_a_base_in_every_form(tmp_path: Path, form: str) -> None:
    network = turned(nets_copy())
    public, x = plain_state(network), torch.randn(8, 1, 8, 8)
    wanted = outputs(network, public, x)
    if form == "unfolded":  # of the model that is folded
        own, path = folded(tuned(public)), open_state(public, tmp_path / "base.safetensors").path
        found = base_state(path, own)
        assert found.keys() == own.keys()
        for name, value in folded(public).items():
            assert torch.allclose(found[name], value, atol=1e-5), name
        return
    own = tuned(public)
    state = public if form == "checkpoint" else folded(public)
    found = base_state(open_state(state, tmp_path / "base.safetensors").path, own)
    assert outputs(network, own | found, x) == pytest.approx(wanted, abs=1e-3 * float(wanted.abs().max()))
    for name in (n for n in public if public[n].ndim > 1):
        assert torch.equal(found[name].sign(), public[name].sign()), name


def nets_copy() -> nn.Module:
    import copy

    return copy.deepcopy(trained())


def test_a_folded_base_gives_a_tuned_model_away(tmp_path: Path) -> None:
    public = tuned(plain_state(trained()), seed=8)
    path = open_state(folded(public), tmp_path / "base.safetensors").path
    locked = lock_model(trained(), tiers="free=1,full=0", include_io=True, unit="sign", seed="signs")
    attacked = target(locked)
    results = run_attacks(replace(attacked, base=base_state(path, locked.original)), TINY, only=["signs-base"])
    found = {result.name: result for result in results}["signs-base"]
    assert found.locked < 0.5
    assert found.details["signs_that_agree"] > 0.95
    assert found.recovered > found.original - 0.1


def test_another_model_is_no_base(tmp_path: Path) -> None:
    other = {"layer.weight": torch.randn(24, 7), "other.weight": torch.randn(3, 3)}
    with pytest.raises(ConfigError, match="has no tensor of the model"):
        base_state(open_state(other, tmp_path / "other.safetensors").path, plain_state(trained()))
