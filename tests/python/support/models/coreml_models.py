"""Small networks and the Core ML packages that coremltools makes of them, each made once and kept for the test session."""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
    warnings.simplefilter("ignore")
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    import coremltools as ct
    import coremltools.optimize.coreml as cto
    from coremltools.converters.mil import Builder as mb  # noqa: N813 - the name that coremltools documents
    from coremltools.converters.mil.mil import types

torch.set_num_threads(1)


class Cnn(nn.Module):
    """Convolution, BatchNorm and pooling; the last feature map is flattened, not averaged, so a channel is 16 columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 24, 1)
        self.hidden = nn.Linear(24 * 16, 40)
        self.head = nn.Linear(40, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.bn1(self.conv1(x))))
        x = self.pool(functional.relu(self.bn2(self.conv2(x))))
        x = functional.silu(self.conv3(x)).flatten(1)
        return self.head(functional.gelu(self.hidden(x)))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, with a shortcut where the shapes allow one."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.shortcut = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class MobileNet(nn.Module):
    """A shallow MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual(16, 24, 2, 4), InvertedResidual(24, 24, 1, 4), InvertedResidual(24, 32, 2, 4),
        )  # fmt: skip
        self.last = nn.Sequential(nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6())
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.blocks(self.stem(x))).mean([2, 3]))


class Attention(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = (
            self.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Token embedding, two blocks, a head."""

    def __init__(self, width: int = 32, entries: int = 60, length: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, width)
        self.position = nn.Parameter(torch.randn(1, length, width) * 0.1)
        self.blocks = nn.Sequential(Attention(width, 4), Attention(width, 4))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, entries, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embedding(tokens) + self.position)))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], torch.Tensor]]] = {
    "cnn": (Cnn, lambda n: torch.randn(n, 8, 16, 16)),
    "mobilenet": (MobileNet, lambda n: torch.randn(n, 3, 32, 32)),
    "transformer": (Transformer, lambda n: torch.randint(0, 60, (n, 8))),
}


@cache
def net(name: str) -> nn.Module:
    """The network in eval mode, with seeded weights and BatchNorm statistics that are not trivial."""
    torch.manual_seed(7)
    model = NETS[name][0]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model


def inputs(name: str, count: int) -> torch.Tensor:
    """A batch for the network, float32 or int64 (count, ...)."""
    torch.manual_seed(count)
    return NETS[name][1](count)


@cache
def _folder() -> Path:
    folder = Path(mkdtemp(prefix="corelocker-coreml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _quiet(work: Callable[[], Any]) -> Any:
    """coremltools prints progress bars and warnings about versions."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        return work()


@cache
def _converted(name: str, precision: str, target: str, route: str) -> ct.models.MLModel:
    model, example = net(name), inputs(name, 1)

    def convert() -> ct.models.MLModel:
        options: dict[str, Any] = {
            "convert_to": "mlprogram",
            "minimum_deployment_target": getattr(ct.target, target),
            "compute_precision": getattr(ct.precision, precision),
            "skip_model_load": True,
        }
        if route == "export":
            program = torch.export.export(model, (example,)).run_decompositions({})
            return ct.convert(program, **options)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        traced = torch.jit.trace(model, example)
        torch.backends.mha.set_fastpath_enabled(fast)
        kind = np.int32 if example.dtype == torch.int64 else np.float32
        return ct.convert(traced, inputs=[ct.TensorType(name="x", shape=tuple(example.shape), dtype=kind)], **options)

    return _quiet(convert)


def _symmetric(dtype: str, **options: Any) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(
        global_config=cto.OpLinearQuantizerConfig(
            mode=options.pop("mode", "linear_symmetric"), dtype=dtype, weight_threshold=100, **options
        )
    )


def _palette(bits: int, **options: Any) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(
        global_config=cto.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=100, **options)
    )


def _pruning() -> cto.OptimizationConfig:
    return cto.OptimizationConfig(global_config=cto.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=100))


Compress = Callable[[Any], Any]
# name -> (precision, deployment target, compression)
VARIANTS: dict[str, tuple[str, str, Compress | None]] = {
    "fp32": ("FLOAT32", "iOS16", None),
    "fp16": ("FLOAT16", "iOS16", None),
    "int8-ios16": ("FLOAT32", "iOS16", lambda m: cto.linear_quantize_weights(m, _symmetric("int8"))),
    "uint8-affine": ("FLOAT16", "iOS16", lambda m: cto.linear_quantize_weights(m, _symmetric("uint8", mode="linear"))),
    "int8-ios18": ("FLOAT16", "iOS18", lambda m: cto.linear_quantize_weights(m, _symmetric("int8"))),
    "int8-tensor": ("FLOAT16", "iOS18", lambda m: cto.linear_quantize_weights(m, _symmetric("int8", granularity="per_tensor"))),
    "int4-block": (
        "FLOAT16", "iOS18",
        lambda m: cto.linear_quantize_weights(m, _symmetric("int4", granularity="per_block", block_size=8)),
    ),
    "uint4-affine": (
        "FLOAT32", "iOS18",
        lambda m: cto.linear_quantize_weights(m, _symmetric("uint4", mode="linear", granularity="per_block", block_size=8)),
    ),
    "lut4-ios16": ("FLOAT32", "iOS16", lambda m: cto.palettize_weights(m, _palette(4))),
    "lut6-ios16": ("FLOAT16", "iOS16", lambda m: cto.palettize_weights(m, _palette(6))),
    "lut8-ios16": ("FLOAT16", "iOS16", lambda m: cto.palettize_weights(m, _palette(8))),
    "lut4-grouped": (
        "FLOAT16", "iOS18", lambda m: cto.palettize_weights(m, _palette(4, granularity="per_grouped_channel", group_size=4)),
    ),
    "lut3-tensor": ("FLOAT32", "iOS18", lambda m: cto.palettize_weights(m, _palette(3))),
    "lut4-scaled": (
        "FLOAT16", "iOS18",
        lambda m: cto.palettize_weights(
            m, _palette(4, granularity="per_grouped_channel", group_size=4, enable_per_channel_scale=True)
        ),
    ),
    "lut2-vector": ("FLOAT16", "iOS18", lambda m: cto.palettize_weights(m, _palette(2, cluster_dim=4))),
    "pruned-ios16": ("FLOAT32", "iOS16", lambda m: cto.prune_weights(m, _pruning())),
    "pruned-ios18": ("FLOAT16", "iOS18", lambda m: cto.prune_weights(m, _pruning())),
    "pruned-int8": (
        "FLOAT16", "iOS18",
        lambda m: cto.linear_quantize_weights(cto.prune_weights(m, _pruning()), _symmetric("int8"), joint_compression=True),
    ),
    "pruned-lut8": (
        "FLOAT16", "iOS18", lambda m: cto.palettize_weights(cto.prune_weights(m, _pruning()), _palette(8), joint_compression=True),
    ),
    "pruned-lut4": (
        "FLOAT16", "iOS18", lambda m: cto.palettize_weights(cto.prune_weights(m, _pruning()), _palette(4), joint_compression=True),
    ),
    "lut-int8": (
        "FLOAT16", "iOS18",
        lambda m: cto.linear_quantize_weights(
            cto.palettize_weights(m, _palette(4)), _symmetric("int8", granularity="per_tensor"), joint_compression=True
        ),
    ),
}  # fmt: skip


@cache
def package(name: str, variant: str, route: str = "trace") -> Path:
    """The package of a network in a variant."""
    precision, target, compress = VARIANTS[variant]
    model = _converted(name, precision, target, route)
    if compress is not None:
        model = _quiet(lambda: compress(model))
    path = _folder() / f"{name}-{variant}-{route}.mlpackage"
    _quiet(lambda: model.save(str(path)))
    return path


class Recurrent(nn.Module):
    """A bidirectional LSTM, a GRU and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 16, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(32, 16, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


NETS["recurrent"] = (Recurrent, lambda n: torch.randn(n, 6, 12))


def array(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Seeded by its shape."""
    return np.random.default_rng(list(shape)).standard_normal(shape, np.float32)


def _layouts() -> Any:
    """Weights that lie in other ways than rows: transposed convolutions, matmul on either side, groups, transposed constants."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8, 6, 6))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        x = mb.conv(x=x, weight=array(12, 8, 3, 3), bias=array(12), pad_type="same", name="first")
        x = mb.conv_transpose(
            x=x, weight=mb.const(val=array(12, 16, 2, 2), name="up_w"), bias=array(16), strides=[2, 2], name="up"
        )
        x = mb.conv(
            x=x, weight=mb.const(val=array(24, 4, 3, 3), name="grouped_w"), groups=4, pad_type="same", name="grouped"
        )
        x = mb.conv(
            x=x, weight=mb.const(val=array(48, 1, 3, 3), name="twice_w"), groups=24, pad_type="same", name="twice"
        )
        x = mb.batch_norm(
            x=x,
            mean=array(48),
            variance=np.abs(array(48)) + 1,
            gamma=mb.const(val=array(48, 1)[:, 0], name="gamma"),
            beta=array(1, 48)[0],
        )
        x = mb.reduce_mean(x=x, axes=[3], keep_dims=False)  # (1, 48, 12)
        x = mb.matmul(x=mb.const(val=array(20, 48), name="left_w"), y=x)  # (1, 20, 12)
        x = mb.matmul(x=x, y=mb.const(val=array(12, 14), name="right_w"))  # (1, 20, 14)
        x = mb.transpose(x=x, perm=[0, 2, 1])  # (1, 14, 20)
        x = mb.matmul(x=x, y=mb.const(val=array(16, 20), name="rows_w"), transpose_y=True)  # (1, 14, 16)
        turned = mb.transpose(x=mb.const(val=array(18, 16), name="turned_w"), perm=[1, 0])
        return mb.matmul(x=x, y=turned, name="y")

    return program, ct.target.iOS16


def _graph() -> Any:
    """Channels that are joined, padded, pooled, moved, branched and shared on their way."""

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 4, 8, 8)), mb.TensorSpec(shape=(1,), dtype=types.bool)],
        opset_version=ct.target.iOS16,
    )
    def program(x: Any, flag: Any) -> Any:
        def conv(x: Any, outputs: int, name: str) -> Any:
            return mb.conv(x=x, weight=mb.const(val=array(outputs, x.shape[1], 3, 3), name=name), pad_type="same")

        stem = conv(x, 8, "stem")
        left, right = conv(stem, 6, "left"), conv(stem, 10, "right")
        both = mb.concat(values=[left, mb.relu(x=right)], axis=1)
        inner = conv(both, 12, "inner")
        padded = mb.pad(x=inner, pad=[0, 0, 2, 2, 0, 0, 0, 0], mode="constant", constant_val=0.0)
        merged = mb.add(x=padded, y=both)
        gate = mb.sigmoid(x=conv(mb.reduce_mean(x=merged, axes=[2, 3], keep_dims=True), 16, "gate"))
        merged = mb.max_pool(x=mb.mul(x=merged, y=gate), kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
        chosen = mb.cond(
            pred=mb.squeeze(x=flag),
            _true_fn=lambda: conv(merged, 5, "then"),
            _false_fn=lambda: mb.relu(x=conv(merged, 5, "otherwise")),
        )
        part = mb.slice_by_index(x=chosen, begin=[0, 0, 0, 0], end=[1, 3, 4, 4])
        last = mb.transpose(x=mb.concat(values=[chosen, part], axis=1), perm=[0, 2, 3, 1])
        flat = mb.reshape(x=last, shape=[1, 4, 32])
        shared = mb.const(val=array(32, 32), name="shared_w")
        flat = mb.linear(x=mb.linear(x=flat, weight=shared), weight=shared)
        return mb.linear(x=flat, weight=mb.const(val=array(9, 32), name="last"), name="y")

    return program, ct.target.iOS16


def _nothing() -> Any:
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        return mb.add(x=x, y=mb.const(val=array(1, 64), name="moved"), name="y")

    return program, ct.target.iOS16


def _in_program() -> Any:
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=mb.const(val=array(3, 3), name="tiny_w"), name="y")

    return program, ct.target.iOS16


def _odd_columns() -> Any:
    """Rows of 27 elements: with 4 bits every other one begins inside a byte."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, 8, 8))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        codes = (np.arange(16 * 27) % 15 - 7).reshape(16, 3, 3, 3).astype(types.np_int4_dtype)
        scale = np.abs(array(16, 1, 1, 1)) + 0.1
        weight = mb.constexpr_blockwise_shift_scale(data=codes, scale=scale, name="odd_w")
        return mb.conv(x=x, weight=weight, name="y")

    return program, ct.target.iOS18


def _tied() -> Any:
    """An embedding whose table is the head's weight, the scales of both in one blob, and a block of scales over channels."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4), dtype=types.int32)], opset_version=ct.target.iOS18)
    def program(tokens: Any) -> Any:
        table = mb.const(val=array(40, 16), name="table")
        x = mb.gather(x=table, indices=tokens, axis=0)
        codes = (np.arange(32 * 16) * 7 % 255 - 127).reshape(32, 16).astype(np.int8)
        scales = np.abs(array(4, 2)) + 0.5
        blocks = mb.constexpr_blockwise_shift_scale(data=codes, scale=scales.reshape(4, 2), name="blocks_w")
        x = mb.linear(x=x, weight=blocks)
        halves = mb.constexpr_blockwise_shift_scale(
            data=codes.reshape(16, 32),
            scale=np.abs(array(16, 4)),
            offset=(np.arange(64) % 5).reshape(16, 4).astype(np.int8),
            name="halves_w",
        )
        return mb.linear(x=mb.relu(x=mb.linear(x=x, weight=halves)), weight=table, name="y")

    return program, ct.target.iOS18


PROGRAMS: dict[str, Callable[[], Any]] = {
    "layouts": _layouts,
    "graph": _graph,
    "nothing": _nothing,
    "in-program": _in_program,
    "odd-columns": _odd_columns,
    "tied": _tied,
}


@cache
def multifunction() -> Path:
    """Two functions that share all weights but the head's: coremltools stores equal blobs once."""
    paths = {}
    for name in ("main", "adapted"):
        model = Cnn()
        model.load_state_dict(net("cnn").state_dict())
        if name == "adapted":
            model.head.weight.data *= -1

        paths[name] = _folder() / f"function-{name}.mlpackage"
        traced = torch.jit.trace(model.eval(), inputs("cnn", 1))
        converted = _quiet(
            lambda traced=traced: ct.convert(
                traced,
                inputs=[ct.TensorType(name="x", shape=(1, 8, 16, 16))],
                convert_to="mlprogram",
                minimum_deployment_target=ct.target.iOS18,
                compute_precision=ct.precision.FLOAT32,
                skip_model_load=True,
            )
        )
        converted.save(str(paths[name]))
    both = ct.utils.MultiFunctionDescriptor()
    for name, path in paths.items():
        both.add_function(str(path), src_function_name="main", target_function_name=name)
    both.default_function_name = "main"
    path = _folder() / "multifunction.mlpackage"
    _quiet(lambda: ct.utils.save_multifunction(both, str(path)))
    return path


@cache
def decompressed(name: str, variant: str) -> Path:
    """What coremltools itself makes of a compressed variant: the same network with plain weights."""
    precision, target, compress = VARIANTS[variant]
    path = _folder() / f"{name}-{variant}-decompressed.mlpackage"
    _quiet(lambda: cto.decompress_weights(compress(_converted(name, precision, target, "trace"))).save(str(path)))
    return path


@cache
def built(name: str) -> Path:
    """The package of a program written with the MIL builder, for what converters rarely leave in one."""
    program, target = PROGRAMS[name]()
    model = _quiet(
        lambda: ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=target, compute_precision=ct.precision.FLOAT32,
            skip_model_load=True, pass_pipeline=ct.PassPipeline.EMPTY,
        )
    )  # fmt: skip
    path = _folder() / f"built-{name}.mlpackage"
    _quiet(lambda: model.save(str(path)))
    return path
