"""How far a lock moves the network's activations: measured, certified from above, and as the paper's theorems estimate it.

Three kinds of numbers that must not be confused:

- **measured**: the disparity ||y - y*|| on given inputs. For the worst input it is a lower bound.
- **certificate**: an upper bound for every input whose norm is at most that of the largest given one. It follows from operator
  norms alone, with no assumption about the weights. Like all products of norms it grows quickly with depth.
- **theorems 1 to 4** of CoreLocker (IEEE S&P 2024): they assume i.i.d. sub-Gaussian weights and hold with a probability, and the
  paper leaves the constants C_e and C_s open. They are parameters here, and the numbers no certificate.

Norms are Euclidean over all elements of one sample's activation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from corelocker.audit import need
from corelocker.audit.utility import first_tensor, load_state
from corelocker.errors import LockingError

if TYPE_CHECKING:
    from torch import Tensor, nn

MARGIN = 1 + 1e-9  # the rounding of sums and singular values in float64
EXACT_COST = 4e10  # multiplications that an exact convolution norm may take
INFINITE = math.inf


# --- operator norms --------------------------------------------------------------------------------------------------


def linear_norm(weight: Tensor) -> float:
    """Largest singular value of a matrix (out, in), or for a very large one sqrt(||W||_1 ||W||_inf), which is never less."""
    matrix = _without_zeros(weight.double().flatten(1))
    if matrix.numel() == 0:
        return 0.0
    if min(matrix.shape) ** 2 * max(matrix.shape) > EXACT_COST:
        magnitudes = matrix.abs()
        return float((magnitudes.sum(0).max() * magnitudes.sum(1).max()).sqrt()) * MARGIN
    return float(need("torch").linalg.matrix_norm(matrix, 2)) * MARGIN


def conv_norm(
    weight: Tensor,
    size: Sequence[int],
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> float:
    """Upper bound of the operator norm of a convolution with zero padding, whatever its stride.

    Args:
        weight: (out, in / groups, kh, kw) or (out, in / groups, k).
        size: height and width (or length) of the input.
        padding, dilation: one number an axis.

    On a torus as large as the padded input the convolution is diagonal in frequency, and its norm is the largest singular value
    of the transfer matrices (Sedghi, Gupta, Long 2019, theorem 6). The real output is part of the torus's, its input a part of
    the torus too, so its norm is not larger. Where that costs too much, the sum of the norms of the kernel's taps stands in,
    which is never less.
    """
    torch = need("torch")
    taps = tuple(weight.shape[2:])
    kernel = weight.double().reshape(groups, weight.shape[0] // groups, weight.shape[1], *taps)
    torus = [max(n + 2 * p, d * (k - 1) + 1) for n, p, d, k in zip(size, padding, dilation, taps, strict=True)]
    rows, columns = kernel.shape[1], kernel.shape[2]
    frequencies = math.prod(torus[:-1]) * (torus[-1] // 2 + 1)
    if groups * frequencies * min(rows, columns) ** 2 * max(rows, columns) > EXACT_COST:
        by_tap = kernel.flatten(3).permute(0, 3, 1, 2)
        return float(torch.linalg.matrix_norm(by_tap, 2).sum(1).max()) * MARGIN
    spread = torch.zeros(*kernel.shape[:3], *torus, dtype=torch.float64)
    spread[(..., *(slice(0, d * (k - 1) + 1, d) for k, d in zip(taps, dilation, strict=True)))] = kernel
    # A correlation is a convolution with the mirrored kernel: the transfer matrices are conjugated, their norms the same.
    transfer = torch.fft.rfftn(spread, dim=tuple(range(3, 3 + len(taps)))).flatten(3).permute(0, 3, 1, 2)
    if min(rows, columns) == 1:
        return float(transfer.abs().square().sum((2, 3)).max().sqrt()) * MARGIN
    gram = transfer @ transfer.mH if rows <= columns else transfer.mH @ transfer
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[..., -1].max()))) * (MARGIN + 1e-9)


def _without_zeros(matrix: Tensor) -> Tensor:
    """The same norm in fewer rows and columns: what a lock changes is a few rows."""
    rows, columns = matrix.abs().sum(1) > 0, matrix.abs().sum(0) > 0
    return matrix[rows][:, columns]


# --- the certificate -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerBound:
    """One layer, with its normalization and activation.

    Attributes:
        name: of its module.
        upper: certificate of ||y - y*||; infinite where an operation is not known (`Bounds.reason` says which).
        measured, measured_mean: the largest and the mean disparity over the inputs.
        norm: mean ||y|| of the original, to compare with.
        g: the paper's G(m) = ||y(m) - phi(W(m) y*(m-1))||, mean over the inputs.
    """

    name: str
    upper: float
    measured: float
    measured_mean: float
    norm: float
    g: float


@dataclass(frozen=True)
class Bounds:
    """Bounds of a lock.

    Attributes:
        layers: in order; the last entry is the model's output.
        radius: the largest norm of an input; the certificate holds up to it.
        inputs: how many inputs were measured.
        theorems: what the paper's theorems give for each layer, see `theorems`.
        reason: why the certificate ends before the output, or empty.
    """

    layers: list[LayerBound]
    radius: float
    inputs: int
    theorems: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class _Bound:
    """||y - y*||, ||y|| and ||y*|| are at most these."""

    delta: float
    original: float
    locked: float

    def times(self, factor: float) -> _Bound:
        """All three, multiplied."""
        return _Bound(*(_times(factor, getattr(self, part)) for part in PARTS))

    def tightened(self, most: float = INFINITE) -> _Bound:
        """Norms are at most `most`, and a difference at most the sum of both."""
        original, locked = min(self.original, most), min(self.locked, most)
        return _Bound(min(self.delta, original + locked), original, locked)


PARTS = ("delta", "original", "locked")
# Name of the function or module -> (Lipschitz constant, |phi(0)|, largest magnitude)
ACTIVATIONS: dict[str, tuple[float, float, float]] = {
    "relu": (1, 0, INFINITE), "relu_": (1, 0, INFINITE), "ReLU": (1, 0, INFINITE),
    "relu6": (1, 0, 6), "ReLU6": (1, 0, 6),
    "tanh": (1, 0, 1), "Tanh": (1, 0, 1),
    "sigmoid": (0.25, 0.5, 1), "Sigmoid": (0.25, 0.5, 1),
    "hardsigmoid": (1 / 6, 0.5, 1), "Hardsigmoid": (1 / 6, 0.5, 1),
    "gelu": (1.13, 0, INFINITE), "GELU": (1.13, 0, INFINITE),
    "silu": (1.1, 0, INFINITE), "SiLU": (1.1, 0, INFINITE),
    "hardswish": (1.5, 0, INFINITE), "Hardswish": (1.5, 0, INFINITE),
    "softmax": (1, 1, 1), "Softmax": (1, 1, 1),
}  # fmt: skip
# Operations that only move, drop or average elements: their norm is at most 1.
CONTRACTIONS = {
    "Identity", "Flatten", "Dropout", "Dropout2d", "flatten", "view", "reshape", "contiguous", "permute", "transpose", "squeeze",
    "unsqueeze", "dropout", "mean", "getitem", "pad", "chunk", "split", "detach", "clone", "PixelShuffle", "pixel_shuffle",
    "ChannelShuffle", "channel_shuffle",
}  # fmt: skip
POOLS = {"MaxPool2d", "max_pool2d", "AvgPool2d", "avg_pool2d"}
ADAPTIVE = {"AdaptiveAvgPool2d", "adaptive_avg_pool2d"}


def bounds(
    module: nn.Module, original: Mapping[str, Tensor], locked: Mapping[str, Tensor], inputs: Tensor,
    *, constants: Mapping[str, float] | None = None,
) -> Bounds:  # fmt: skip
    """Certificate, measured disparity and the paper's theorems for every layer.

    Args:
        module: best one that `torch.fx` can trace; it stays as it is.
        original, locked: its state dict before and after.
        inputs: (n, ...) samples, real or synthetic.
        constants: of the theorems, see `theorems`.

    Computed in float64. Where the module cannot be traced there is no certificate and no G, and `reason` says so.
    """
    torch = need("torch")
    with torch.no_grad():
        networks = [load_state(deepcopy(module), state).double().eval() for state in (original, locked)]
        x = inputs.double() if inputs.is_floating_point() else inputs
        try:
            walk = _Walk(networks[0], networks[1])
            layers, reason = walk.run(x)
            statistics = walk.statistics
        except LockingError as error:
            layers, statistics, reason = *_hooked(networks, x), str(error)
    radius = float(x.flatten(1).norm(dim=1).max()) if x.is_floating_point() else 0.0
    return Bounds(layers, radius, len(x), theorems(statistics, layers, radius, constants or {}), reason)


class _Walk:
    """Goes through the traced graph once, with the values of both networks and the bound of their difference."""

    def __init__(self, original: nn.Module, locked: nn.Module) -> None:
        fx = need("torch.fx")
        try:
            self._graph = fx.symbolic_trace(original)
        except Exception as error:  # whatever a model's own code raises on symbolic values
            raise LockingError(f"the model's graph cannot be traced: {type(error).__name__}: {error}") from error
        self._modules = [dict(self._graph.named_modules()), dict(locked.named_modules())]
        self._networks = [self._graph, locked]
        self._values: dict[Any, tuple[Any, Any]] = {}
        self._bounds: dict[Any, _Bound] = {}
        self._batch = 0
        self.reason = ""
        self.statistics: list[LayerStatistics] = []

    def run(self, x: Tensor) -> tuple[list[LayerBound], str]:
        """The layers and why the certificate ends, if it does."""
        radius = float(x.flatten(1).norm(dim=1).max()) if x.is_floating_point() else INFINITE
        layers: list[LayerBound] = []
        chains = {node: self._chain(node) for node in self._graph.graph.nodes if self._layer(node) is not None}
        ends = {chain[-1]: node for node, chain in chains.items()}
        place = {node: i for i, node in enumerate(self._graph.graph.nodes)}
        last_use = {a: place[node] for node in self._graph.graph.nodes for a in node.all_input_nodes}
        for start, chain in chains.items():  # G(m) needs a layer's input until the layer's activation is known
            for source in start.all_input_nodes:
                last_use[source] = max(last_use[source], place[chain[-1]])
        self._batch = len(x)
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                self._values[node], self._bounds[node] = (x, x), _Bound(0.0, radius, radius)
            elif node.op == "output":
                if need("torch").is_tensor(self._values[node.all_input_nodes[0]][0]):
                    layers.append(self._measured("output", node.all_input_nodes[0], None))
            else:
                self._step(node)
                if node in ends:
                    start = ends[node]
                    layers.append(self._measured(str(start.target), node, chains[start]))
            for used in [a for a in self._values if last_use.get(a, -1) <= place[node] and a is not node]:
                del self._values[used]
        return layers, self.reason

    def _layer(self, node: Any) -> Any:
        torch = need("torch")
        kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
        module = self._modules[0].get(str(node.target)) if node.op == "call_module" else None
        return module if isinstance(module, kinds) else None

    def _chain(self, node: Any) -> list[Any]:
        """A layer's node, then its normalization and its activation as long as nothing else reads in between."""
        chain = [node]
        while len(chain[-1].users) == 1:
            (user,) = chain[-1].users
            if self._kind(user) not in ("BatchNorm1d", "BatchNorm2d", *ACTIVATIONS):
                break
            chain.append(user)
            if self._kind(user) in ACTIVATIONS:
                break
        return chain

    def _kind(self, node: Any) -> str:
        if node.op == "call_module":
            return type(self._modules[0][str(node.target)]).__name__
        if node.op == "call_function":
            return str(getattr(node.target, "__name__", node.target))
        return str(node.target) if node.op == "call_method" else node.op

    def _execute(self, node: Any, which: int, replaced: Mapping[Any, Any] | None = None) -> Any:
        from torch.fx.node import map_arg

        def load(argument: Any) -> Any:
            if replaced is not None and argument in replaced:
                return replaced[argument]
            return self._values[argument][which]

        args, kwargs = map_arg(node.args, load), map_arg(node.kwargs, load)
        if node.op == "call_module":
            return self._modules[which][str(node.target)](*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        found: Any = self._networks[which]  # get_attr
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found

    def _step(self, node: Any) -> None:
        torch = need("torch")
        self._values[node] = (_detached(self._execute(node, 0)), _detached(self._execute(node, 1)))
        value = self._values[node][0]
        if self._layer(node) is not None and any(self._folded_start(user) is node for user in node.users):
            return  # bounded together with the BatchNorm behind it
        if isinstance(value, (tuple, list)) or (torch.is_tensor(value) and value.is_floating_point()):
            self._bounds[node] = self._bound(node).tightened()

    def _bound(self, node: Any) -> _Bound:
        kind = self._kind(node)
        inputs = [self._bounds[a] for a in node.all_input_nodes if a in self._bounds]
        layer = self._layer(node)
        if node.op == "get_attr":
            return _constant(*self._values[node])
        if layer is not None and len(inputs) == 1:
            return self._weighted(node, layer, inputs[0])
        folded = self._folded_start(node)
        if folded is not None and folded.all_input_nodes[0] in self._bounds:
            return self._weighted(folded, self._layer(folded), self._bounds[folded.all_input_nodes[0]], node)
        if (
            kind.startswith("BatchNorm")
            and len(inputs) == 1
            and self._modules[0][str(node.target)].running_mean is not None
        ):
            return self._normalized(node, inputs[0])
        if kind == "LayerNorm" and len(inputs) == 1:
            return self._layer_norm(node, inputs[0])
        if kind == "Embedding":
            return self._embedded(node)
        if kind in ACTIVATIONS and len(inputs) == 1:
            lipschitz, at_zero, most = ACTIVATIONS[kind]
            scale = self._scale(node)
            shift = at_zero * math.sqrt(scale)
            bound = inputs[0]
            return _Bound(
                lipschitz * bound.delta, lipschitz * bound.original + shift, lipschitz * bound.locked + shift
            ).tightened(most * math.sqrt(scale))
        return self._combined(node, kind, inputs)

    def _combined(self, node: Any, kind: str, inputs: list[_Bound]) -> _Bound:
        numbers = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, (int, float))]
        value = self._values[node][0]
        alone = inputs[0] if len(inputs) == 1 else None
        if kind in ("add", "add_", "iadd", "sub") and len(inputs) == 2 and not numbers:
            repeats = [_broadcast(self._values[a][0], value) for a in node.all_input_nodes]
            scaled = [b.times(r) for r, b in zip(repeats, inputs, strict=True)]
            return _Bound(*(sum(getattr(b, part) for b in scaled) for part in PARTS))
        if kind in ("cat", "concat", "stack") and node.args and all(a in self._bounds for a in node.args[0]):
            parts = [self._bounds[a] for a in node.args[0]]
            return _Bound(*(math.hypot(*(getattr(b, part) for b in parts)) for part in PARTS))
        if kind in ("mul", "matmul", "bmm") and len(inputs) == 2:
            # ||a b|| <= ||a|| ||b||, for elements, broadcast elements and matrices alike.
            a, b = inputs
            return _Bound(
                _times(a.delta, b.original) + _times(a.locked, b.delta),
                _times(a.original, b.original),
                _times(a.locked, b.locked),
            )
        if kind in ("mul", "div", "truediv") and alone is not None and len(numbers) == 1 and numbers[0] != 0:
            return alone.times(abs(numbers[0]) if kind == "mul" else 1 / abs(numbers[0]))
        if kind in POOLS and alone is not None:
            return alone.times(self._overlap(node))
        if kind in ADAPTIVE and alone is not None:
            before = self._values[node.all_input_nodes[0]][0]
            sizes = zip(before.shape[2:], value.shape[2:], strict=True)
            return alone.times(math.sqrt(math.prod(1 if n % m == 0 else -(-m // n) + 1 for n, m in sizes)))
        if kind in CONTRACTIONS and alone is not None and self._keeps_samples(node, kind):
            return alone
        # Nothing known: still no difference where nothing that it reads differs.
        self.reason = self.reason or f"no bound is known for {kind} ({node.name})"
        unmoved = bool(inputs) and all(b.delta == 0 for b in inputs) and self._same_parameters(node)
        return _Bound(0.0 if unmoved else INFINITE, INFINITE, INFINITE)

    def _keeps_samples(self, node: Any, kind: str) -> bool:
        """Whether every sample stays on the first axis and no element is repeated."""
        value = self._values[node][0]
        tensors = value if isinstance(value, (tuple, list)) else [value]
        if any(t.dim() == 0 or t.shape[0] != self._batch for t in tensors):
            return False
        if kind == "getitem":
            index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
            whole = isinstance(self._values[node.args[0]][0], (tuple, list))
            return whole or all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in index)
        if kind in ("permute", "transpose"):
            axes = [a for given in node.args[1:] for a in (given if isinstance(given, (tuple, list)) else (given,))]
            return bool(axes) and ((axes[0] == 0) if kind == "permute" else 0 not in axes)
        if kind == "pad":
            mode = node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant")
            filled = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0)
            return mode == "constant" and not filled
        return True

    def _layer_norm(self, node: Any, bound: _Bound) -> _Bound:
        """Centering is a projection, the division at most by sqrt(eps); and each row ends no longer than sqrt(its length)."""
        norms, shifts, most = [], [], 0.0
        tables = [self._modules[which][str(node.target)] for which in (0, 1)]
        length = math.prod(tables[0].normalized_shape)
        rows = math.sqrt(self._scale(node) / length)
        for module in tables:
            gain = 1.0 if module.weight is None else float(module.weight.abs().max())
            shift = 0.0 if module.bias is None else float(module.bias.norm())
            norms.append(gain / math.sqrt(module.eps))
            shifts.append(shift * rows)
            most = max(most, (gain * math.sqrt(length) + shift) * rows)
        same = self._same_parameters(node)
        delta = _times(norms[0], bound.delta) if same else INFINITE
        originals = (_times(norms[0], bound.original) + shifts[0], _times(norms[1], bound.locked) + shifts[1])
        return _Bound(delta, *originals).tightened(most)

    def _embedded(self, node: Any) -> _Bound:
        tables = [self._modules[which][str(node.target)].weight for which in (0, 1)]
        rows = math.sqrt(self._values[node][0][0].numel() / tables[0].shape[1])
        norms = [float(t.norm(dim=1).max()) * rows for t in (tables[0] - tables[1], *tables)]
        return _Bound(norms[0], norms[1], norms[2])

    def _same_parameters(self, node: Any) -> bool:
        if node.op != "call_module":
            return True
        states = [self._modules[which][str(node.target)].state_dict() for which in (0, 1)]
        return all(bool((states[0][name] == states[1][name]).all()) for name in states[0])

    def _scale(self, node: Any) -> int:
        """Elements of one sample."""
        value = self._values[node][0]
        return int(value[0].numel())

    def _overlap(self, node: Any) -> float:
        """Root of the number of windows that an element can be in: at most that many of them repeat it."""
        given = dict(zip(("input", "kernel_size", "stride", "padding"), node.args, strict=False)) | node.kwargs
        if node.op == "call_module":
            given = vars(self._modules[0][str(node.target)])
        size, stride = given["kernel_size"], given.get("stride") or given["kernel_size"]
        pairs = [(n, n) if isinstance(n, int) else tuple(n) for n in (size, stride, given.get("dilation", 1))]
        return math.sqrt(math.prod(k if d != 1 else -(-k // s) for k, s, d in zip(*pairs, strict=True)))

    def _folded_start(self, norm: Any) -> Any:
        """The layer's node in front of a BatchNorm that alone reads it."""
        if not self._kind(norm).startswith("BatchNorm") or self._modules[0][str(norm.target)].running_mean is None:
            return None
        (before,) = norm.all_input_nodes
        return before if self._layer(before) is not None and len(before.users) == 1 else None

    def _affine(self, node: Any, which: int) -> tuple[Tensor, Tensor]:
        """Scale and shift of a BatchNorm in inference, (channels,) each."""
        torch = need("torch")
        norm = self._modules[which][str(node.target)]
        spread = torch.sqrt(norm.running_var + norm.eps)
        scale = (torch.ones_like(spread) if norm.weight is None else norm.weight) / spread
        shift = -norm.running_mean * scale + (0 if norm.bias is None else norm.bias)
        return scale, shift

    def _normalized(self, node: Any, bound: _Bound) -> _Bound:
        (scale, shift), (scale_, shift_) = (self._affine(node, which) for which in (0, 1))
        places = math.sqrt(self._scale(node) / scale.numel())
        norms = [float(s.abs().max()) for s in (scale, scale_, scale - scale_)]
        return _propagated(bound, norms, [float(t.norm()) * places for t in (shift, shift_, shift - shift_)])

    def _weighted(self, node: Any, layer: Any, bound: _Bound, norm: Any = None) -> _Bound:
        """A linear layer or convolution, together with the BatchNorm behind it."""
        torch = need("torch")
        weights, shifts = [], []
        for which in (0, 1):
            module = self._modules[which][str(node.target)]
            weight = module.weight
            bias = torch.zeros(weight.shape[0], dtype=weight.dtype) if module.bias is None else module.bias
            if norm is not None:
                scale, shift = self._affine(norm, which)
                weight, bias = weight * scale.reshape(-1, *(1 for _ in weight.shape[1:])), bias * scale + shift
            weights.append(weight)
            shifts.append(bias)
        changed = weights[0] - weights[1]
        if isinstance(layer, torch.nn.Linear):
            norms = [linear_norm(w) for w in (*weights, changed)]
        else:
            if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                self.reason = self.reason or f"no bound is known for the padding of {node.target}"
                return _Bound(INFINITE, INFINITE, INFINITE)
            size = tuple(self._values[node.all_input_nodes[0]][0].shape[2:])
            norms = [_difference_norm(w, size, layer) for w in (*weights, changed)]
        value = self._values[norm if norm is not None else node][0]
        places = math.sqrt(value[0].numel() / weights[0].shape[0])
        self._note(node, weights, shifts)
        return _propagated(bound, norms, [float(t.norm()) * places for t in (*shifts, shifts[0] - shifts[1])])

    def _note(self, node: Any, weights: Sequence[Tensor], shifts: Sequence[Tensor]) -> None:
        self.statistics.append(_statistics(str(node.target), weights, shifts))

    def _measured(self, name: str, node: Any, chain: list[Any] | None) -> LayerBound:
        original, locked = (v.double().flatten(1) for v in self._values[node])
        moved = (original - locked).norm(dim=1)
        g = float("nan")
        if chain is not None:
            source = chain[0].all_input_nodes[0]
            value = self._values[source][1]
            for link, before in zip(chain, [source, *chain[:-1]], strict=True):
                value = _detached(self._execute(link, 0, {before: value}))
            g = float((original - value.double().flatten(1)).norm(dim=1).mean())
        bound = self._bounds.get(node, _Bound(INFINITE, INFINITE, INFINITE))
        return LayerBound(
            name, bound.delta, float(moved.max()), float(moved.mean()), float(original.norm(dim=1).mean()), g
        )


def _statistics(name: str, weights: Sequence[Tensor], shifts: Sequence[Tensor]) -> LayerStatistics:
    return LayerStatistics(
        name,
        int(weights[0].shape[0]),
        tuple(weights[0].shape[2:]),
        float(weights[0].std(unbiased=False)),
        float(shifts[0].std(unbiased=False)),
        float(weights[0].abs().max()),
        int((weights[0] != weights[1]).sum()),
    )


def _hooked(networks: Sequence[nn.Module], x: Tensor) -> tuple[list[LayerBound], list[LayerStatistics]]:
    """The measured disparity behind every layer, without a graph: no certificate, no G."""
    torch = need("torch")
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
    seen: list[dict[str, Tensor]] = [{}, {}]
    for network, outputs in zip(networks, seen, strict=True):
        hooks = [
            module.register_forward_hook(partial(_keep, outputs, name))
            for name, module in network.named_modules()
            if isinstance(module, kinds)
        ]
        outputs["output"] = first_tensor(network(x))
        for hook in hooks:
            hook.remove()
    layers, statistics = [], []
    modules = [dict(network.named_modules()) for network in networks]
    for name in [*(n for n in seen[0] if n != "output"), "output"]:
        original, locked = (outputs[name].double().flatten(1) for outputs in seen)
        moved = (original - locked).norm(dim=1)
        layers.append(
            LayerBound(
                name, INFINITE, float(moved.max()), float(moved.mean()), float(original.norm(dim=1).mean()), math.nan
            )
        )
        if name != "output":
            weights = [m[name].weight for m in modules]
            shifts = [torch.zeros(1) if m[name].bias is None else m[name].bias for m in modules]
            statistics.append(_statistics(name, weights, shifts))
    return layers, statistics


def _keep(outputs: dict[str, Tensor], name: str, _module: Any, _inputs: Any, output: Tensor) -> None:
    outputs.setdefault(name, output.clone())


def _detached(value: Any) -> Any:
    torch = need("torch")
    return value.clone() if torch.is_tensor(value) else value


def _constant(original: Any, locked: Any) -> _Bound:
    norms = [float(v.double().norm()) for v in (original, locked)]
    return _Bound(float((original.double() - locked.double()).norm()), norms[0], norms[1])


def _broadcast(part: Any, whole: Any) -> float:
    """How much a summand's norm grows when it is repeated to the sum's shape."""
    elements = part[0].numel() if part.dim() == whole.dim() and part.shape[0] == whole.shape[0] else part.numel()
    return math.sqrt(max(1.0, whole[0].numel() / max(1, elements)))


def _difference_norm(weight: Tensor, size: tuple[int, ...], layer: Any) -> float:
    """Norm of a convolution; rows of zeros (a difference has few others) are left out where there are no groups."""
    if layer.groups == 1:
        rows = weight.flatten(1).abs().sum(1) > 0
        if not bool(rows.any()):
            return 0.0
        weight = weight[rows]
    elif not bool(weight.any()):
        return 0.0
    return conv_norm(weight, size, layer.padding, layer.dilation, layer.groups)


def _propagated(bound: _Bound, norms: Sequence[float], shifts: Sequence[float]) -> _Bound:
    """Through y = A x + t: norms are those of A, A* and A - A*, shifts those of t, t* and t - t*.

    A x - A* x* is A (x - x*) + (A - A*) x* and also A* (x - x*) + (A - A*) x: the smaller bound counts.
    """
    one = _times(norms[0], bound.delta) + _times(norms[2], bound.locked)
    other = _times(norms[1], bound.delta) + _times(norms[2], bound.original)
    return _Bound(
        (min(one, other) + shifts[2]) * MARGIN,
        (_times(norms[0], bound.original) + shifts[0]) * MARGIN,
        (_times(norms[1], bound.locked) + shifts[1]) * MARGIN,
    )


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


# --- the paper's theorems --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerStatistics:
    """A layer's weights (its BatchNorm folded in): units, kernel shape (empty for a linear layer), standard deviations of
    weights and shifts, the largest magnitude C_w, and how many weights the lock changed, D_w."""

    name: str
    units: int
    kernel: tuple[int, ...]
    sigma_w: float
    sigma_b: float
    c_w: float
    d_w: int


DEFAULTS = {"L": 1.0, "mu": 1.0, "tau": 2.0, "C_e": 1.0, "C_s": 1.0, "K": 1.0}


def theorems(
    layers: Sequence[LayerStatistics], measured: Sequence[LayerBound], radius: float, constants: Mapping[str, float]
) -> dict[str, Any]:
    """Theorems 1 to 4 for every layer m, as base-10 logarithms where a number may leave the range of floats.

    Args:
        layers: in order.
        measured: for G(m), by name.
        radius: ||x||.
        constants: L (Lipschitz constant of the activation), mu and tau (free in the theorems), C_e and C_s (universal constants
            that the paper leaves open), K (sub-Gaussian norm of a weight in units of its standard deviation). Missing ones are
            those of DEFAULTS.

    The paper's symbols are read so: N is the largest number of units of a layer so far, Q the side of a kernel, C the number of
    its layer's channels, D_w how many weights the lock changed, C_w the largest magnitude of a weight.
    """
    values = DEFAULTS | dict(constants)
    g_of = {layer.name: layer.g for layer in measured}
    lipschitz, mu, tau = values["L"], values["mu"], values["tau"]
    rows = []
    variance = _log(radius**2)
    width = 1
    for place, layer in enumerate(layers, 1):
        width = max(width, layer.units)
        gain = _log(lipschitz**2 * width) + 2 * _log(layer.sigma_w)
        # Theorem 1 as a recursion: each layer multiplies what came before and adds its shift's variance.
        variance = _log_sum(variance + gain, _log(lipschitz**2 * width * layer.sigma_b**2))
        tail = (place - 1) * _log(width) + place * _log(layer.d_w * layer.c_w) - _log(mu)
        g = g_of.get(layer.name, 0.0)
        k = values["K"] * layer.sigma_w
        if layer.kernel:
            side, channels = max(layer.kernel), layer.units
            lam = channels**2 * (math.sqrt(side) + values["C_s"] * k**2 * (math.sqrt(side) + tau))
            exponent = channels**2 * (place - 1)
            miss = 6 * side**2 * values["C_e"] * layer.c_w * math.sqrt(layer.d_w) / mu
        else:
            lam = math.sqrt(width) + values["C_s"] * k**2 * (math.sqrt(width) + tau)
            exponent = place - 1
            miss = 6 * values["C_e"] * layer.c_w * math.sqrt(layer.d_w) / mu
        upper = _log(mu) + place * _log(lipschitz) + exponent * _log(lam) + _log(radius)
        probability = max(0.0, 1 - miss) * (1 - 2 * math.exp(-(tau**2))) ** max(0, exponent)
        rows.append(
            {
                "layer": layer.name,
                "m": place,
                "theorem": 4 if layer.kernel else 3,
                "log10_variance": variance,
                "log10_tail_of_g": min(0.0, tail),
                "log10_upper": _log_sum(_log(g) if g == g else -INFINITE, upper),
                "probability": probability,
            }
        )
    return {"constants": values, "layers": rows}


def _log(value: float) -> float:
    return math.log10(value) if value > 0 else -INFINITE


def _log_sum(a: float, b: float) -> float:
    """log10(10^a + 10^b)."""
    high, low = max(a, b), min(a, b)
    return high if high == -INFINITE else high + math.log10(1 + 10 ** (low - high))
