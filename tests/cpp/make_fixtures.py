"""Small models for the C++ tests: exported with ExecuTorch, locked by the product, as the app team would.

    make_fixtures.py FOLDER [--no-rekey]

Every fixture is a folder with original and locked files, the decrypted patches of the tiers, an input, and in
`fixture.json` all that the tests need to know. `--no-rekey` leaves the names of XNNPACK's weights in the locked files
as they were: the weight-cache test must fail on such files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import torch
from corelocker.artifacts import open_artifact
from corelocker.bundle.clkey import KeyBundle
from corelocker.bundle.content_keys import new_content_key, tier_keys
from corelocker.locking.criteria import score
from corelocker.locking.planning import make_plan
from corelocker.locking.publish import publish
from corelocker.locking.tiers import parse_tiers
from cryptography.hazmat.primitives.asymmetric import ec
from torch import nn

TIERS = "free=0.2,plus=0.05,full=0"
SIGN_TIERS = "free=1,plus=0.3,full=0"


class ConvNet(nn.Module):
    """Convolutions with BatchNorm, a depthwise one among them, and a linear layer: [1, 3, 32, 32] to [1, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self._conv(3, 16, 2)
        self.depthwise = self._conv(16, 16, 1, groups=16)
        self.pointwise = self._conv(16, 48, 2, kernel=1)
        self.head = self._conv(48, 64, 2)
        self.classifier = nn.Linear(64, 10)

    @staticmethod
    def _conv(inputs: int, outputs: int, stride: int, groups: int = 1, kernel: int = 3) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.pointwise(self.depthwise(self.stem(x))))
        return self.classifier(x.mean(dim=(2, 3)))


class Transformer(nn.Module):
    """One attention block with a gated feed-forward part, as in a language model: [1, 8, 128] to the same."""

    def __init__(self, width: int = 128, hidden: int = 256) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.feed_norm = nn.LayerNorm(width)
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attention_norm(x)
        scores = self.query(y) @ self.key(y).transpose(-1, -2) * y.shape[-1] ** -0.5
        x = x + self.out(torch.softmax(scores, -1) @ self.value(y))
        y = self.feed_norm(x)
        return x + self.down(torch.sigmoid(self.gate(y)) * self.up(y))


@dataclass(frozen=True)
class Recipe:
    """How a fixture is exported.

    Attributes:
        model: makes the eager model.
        shape: of the one float input.
        quantize: "", "int8" (PT2E) or "4bit" (8-bit activations, 4-bit groups of weights).
        xnnpack: lower to XNNPACK, otherwise portable kernels.
        external: weights go to a .ptd.
        signs: the lock takes the signs of all weights, in place of the values of some channels.
    """

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    quantize: str = ""
    xnnpack: bool = True
    external: bool = False
    signs: bool = False


IMAGE = (1, 3, 32, 32)
RECIPES = {
    "portable_fp32": Recipe(ConvNet, IMAGE, xnnpack=False),
    "xnnpack_fp32": Recipe(ConvNet, IMAGE),
    "xnnpack_int8": Recipe(ConvNet, IMAGE, quantize="int8"),
    "xnnpack_4bit": Recipe(Transformer, (1, 8, 128), quantize="4bit"),
    "portable_ptd": Recipe(ConvNet, IMAGE, xnnpack=False, external=True),
    "xnnpack_ptd": Recipe(Transformer, (1, 8, 128), external=True),
    "xnnpack_signs": Recipe(ConvNet, IMAGE, signs=True),
    "xnnpack_int8_signs": Recipe(ConvNet, IMAGE, quantize="int8", signs=True),
}


def trained(model: nn.Module) -> nn.Module:
    """The model with BatchNorm statistics as training leaves them: none is 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def quantize(model: nn.Module, example: torch.Tensor, how: str) -> nn.Module:
    if how == "int8":
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = xnnpack.XNNPACKQuantizer()
        quantizer.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(torch.export.export(model, (example,), strict=True).module(), quantizer)
        generator = torch.Generator().manual_seed(1)
        for _ in range(4):
            prepared(torch.randn(example.shape, generator=generator))
        return convert_pt2e(prepared)
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    quantize_(model, Int8DynamicActivationIntxWeightConfig(torch.int4, PerGroup(32)))
    return model


def export(recipe: Recipe, folder: Path) -> torch.Tensor:
    """Write model.pte, and model.ptd where the weights are external, to `folder`; return the example input."""
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes.external_constants_pass import delegate_external_constants_pass_unlifted

    torch.manual_seed(0)
    model = trained(recipe.model())
    example = torch.randn(recipe.shape)
    if recipe.quantize:
        model = quantize(model, example, recipe.quantize)
    program = torch.export.export(model, (example,), strict=True)
    partitioners: list[Any] = []
    if recipe.xnnpack and recipe.external:
        unlifted = program.module()
        delegate_external_constants_pass_unlifted(unlifted, gen_tag_fn=lambda node: "model")
        program = torch.export.export(unlifted, (example,), strict=True)
    if recipe.xnnpack and recipe.quantize == "4bit":
        partitioners = [XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True)]
    if recipe.xnnpack:
        partitioners.append(XnnpackPartitioner())
    edge = to_edge_transform_and_lower(
        program, partitioner=partitioners, compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    config = ExecutorchBackendConfig()
    if recipe.external and not recipe.xnnpack:
        config = ExecutorchBackendConfig(external_constants=lambda node: "model")
    executorch = edge.to_executorch(config)
    (folder / "model.pte").write_bytes(executorch.buffer)
    if recipe.external:
        executorch.write_tensor_data_to_file(str(folder))
    return example


def lock(folder: Path, rekey: bool, signs: bool) -> dict[str, Any]:
    """Lock the exported model of `folder` with a real bundle; return what the tests need to know of it."""
    original = folder / "original"
    artifact = open_artifact(original / "model.pte")
    if not rekey:
        artifact = dataclasses.replace(artifact, identities=())
    plan = make_plan(
        [artifact],
        parse_tiers(SIGN_TIERS, "sign") if signs else parse_tiers(TIERS),
        score("l1", b"", None),
        criterion="l1",
        scope="layer",
        fill="decoy",
        seed=b"fixtures",
        unit="sign" if signs else "value",
        include_io=True,  # the models are so small that little else is left
    )
    bundle_id, content_key = UUID(int=1), new_content_key()
    published = publish(
        [artifact],
        plan,
        folder / "locked",
        model="fixture",
        model_version=1,
        bundle_id=bundle_id,
        signing_key=ec.generate_private_key(ec.SECP256R1()),
        content_key=content_key,
        force=True,
    )
    files: dict[str, Any] = {"program": None, "data": None}
    with KeyBundle.open(published.bundle) as bundle:
        keys = tier_keys(content_key, bundle_id, len(plan.tiers))
        for place, file in enumerate(bundle.artifacts[0].files):
            patches: list[Any] = [None] * (len(plan.tiers) - 1)
            for section in bundle.sections_of(0, place, len(plan.tiers) - 1):
                opened = bundle.decrypt(section, keys[section.tier])
                name = f"{file.path}.tier{section.tier}.patch"
                (folder / name).write_bytes(opened.patch)
                patches[section.tier - 1] = {
                    "file": name,
                    "locked_sample": section.locked_sample.hex(),
                    "restored_sample": opened.restored_sample.hex(),
                    "restored_sha256": opened.file_digest.hex(),
                }
            kind = "data" if file.path.endswith(".ptd") else "program"
            files[kind] = {"original": f"original/{file.path}", "locked": f"locked/{file.path}", "patches": patches}
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-rekey", action="store_true", help="leave XNNPACK's names of weights as they were")
    arguments = parser.parse_args()
    for name, recipe in RECIPES.items():
        folder = arguments.folder / name
        (folder / "original").mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            example = export(recipe, folder / "original")
        (folder / "input.bin").write_bytes(example.numpy().tobytes())
        description = {
            "sizes": recipe.shape,
            "input": "input.bin",
            **lock(folder, not arguments.no_rekey, recipe.signs),
        }
        (folder / "fixture.json").write_text(json.dumps(description, indent=1))
    (arguments.folder / "fixtures.json").write_text(json.dumps(list(RECIPES)))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    main()
