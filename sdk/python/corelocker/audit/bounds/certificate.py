"""The certificate: bounds of every layer's difference, from operator norms along the traced graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from corelocker.audit import need
from corelocker.audit.bounds.measured import measured_without_graph
from corelocker.audit.bounds.operator_norms import INFINITE, linear_norm
from corelocker.audit.bounds.propagation import (
    ACTIVATIONS,
    ADAPTIVE,
    CONTRACTIONS,
    PARTS,
    POOLS,
    DifferenceBound,
    bound_of_constant,
    growth_by_broadcast,
    norm_of_convolution,
    through_affine,
    times,
)
from corelocker.audit.bounds.results import Bounds, LayerBound, LayerStatistics
from corelocker.audit.bounds.theorems import statistics_of, theorems
from corelocker.audit.evaluators import load_state
from corelocker.errors import LockingError

if TYPE_CHECKING:
    from torch import Tensor, nn


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
            walk = Certifier(networks[0], networks[1])
            layers, reason = walk.run(x)
            statistics = walk.statistics
        except LockingError as error:
            layers, statistics, reason = *measured_without_graph(networks, x), str(error)
    radius = float(x.flatten(1).norm(dim=1).max()) if x.is_floating_point() else 0.0
    return Bounds(layers, radius, len(x), theorems(statistics, layers, radius, constants or {}), reason)


class Certifier:
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
        self._bounds: dict[Any, DifferenceBound] = {}
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
                self._values[node], self._bounds[node] = (x, x), DifferenceBound(0.0, radius, radius)
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

    def _bound(self, node: Any) -> DifferenceBound:
        kind = self._kind(node)
        inputs = [self._bounds[a] for a in node.all_input_nodes if a in self._bounds]
        layer = self._layer(node)
        if node.op == "get_attr":
            return bound_of_constant(*self._values[node])
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
            return DifferenceBound(
                lipschitz * bound.delta, lipschitz * bound.original + shift, lipschitz * bound.locked + shift
            ).tightened(most * math.sqrt(scale))
        return self._combined(node, kind, inputs)

    def _combined(self, node: Any, kind: str, inputs: list[DifferenceBound]) -> DifferenceBound:
        numbers = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, (int, float))]
        value = self._values[node][0]
        alone = inputs[0] if len(inputs) == 1 else None
        if kind in ("add", "add_", "iadd", "sub") and len(inputs) == 2 and not numbers:
            repeats = [growth_by_broadcast(self._values[a][0], value) for a in node.all_input_nodes]
            scaled = [b.times(r) for r, b in zip(repeats, inputs, strict=True)]
            return DifferenceBound(*(sum(getattr(b, part) for b in scaled) for part in PARTS))
        if kind in ("cat", "concat", "stack") and node.args and all(a in self._bounds for a in node.args[0]):
            parts = [self._bounds[a] for a in node.args[0]]
            return DifferenceBound(*(math.hypot(*(getattr(b, part) for b in parts)) for part in PARTS))
        if kind in ("mul", "matmul", "bmm") and len(inputs) == 2:
            # ||a b|| <= ||a|| ||b||, for elements, broadcast elements and matrices alike.
            a, b = inputs
            return DifferenceBound(
                times(a.delta, b.original) + times(a.locked, b.delta),
                times(a.original, b.original),
                times(a.locked, b.locked),
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
        return DifferenceBound(0.0 if unmoved else INFINITE, INFINITE, INFINITE)

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

    def _layer_norm(self, node: Any, bound: DifferenceBound) -> DifferenceBound:
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
        delta = times(norms[0], bound.delta) if same else INFINITE
        originals = (times(norms[0], bound.original) + shifts[0], times(norms[1], bound.locked) + shifts[1])
        return DifferenceBound(delta, *originals).tightened(most)

    def _embedded(self, node: Any) -> DifferenceBound:
        tables = [self._modules[which][str(node.target)].weight for which in (0, 1)]
        rows = math.sqrt(self._values[node][0][0].numel() / tables[0].shape[1])
        norms = [float(t.norm(dim=1).max()) * rows for t in (tables[0] - tables[1], *tables)]
        return DifferenceBound(norms[0], norms[1], norms[2])

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

    def _normalized(self, node: Any, bound: DifferenceBound) -> DifferenceBound:
        (scale, shift), (scale_, shift_) = (self._affine(node, which) for which in (0, 1))
        places = math.sqrt(self._scale(node) / scale.numel())
        norms = [float(s.abs().max()) for s in (scale, scale_, scale - scale_)]
        return through_affine(bound, norms, [float(t.norm()) * places for t in (shift, shift_, shift - shift_)])

    def _weighted(self, node: Any, layer: Any, bound: DifferenceBound, norm: Any = None) -> DifferenceBound:
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
                return DifferenceBound(INFINITE, INFINITE, INFINITE)
            size = tuple(self._values[node.all_input_nodes[0]][0].shape[2:])
            norms = [norm_of_convolution(w, size, layer) for w in (*weights, changed)]
        value = self._values[norm if norm is not None else node][0]
        places = math.sqrt(value[0].numel() / weights[0].shape[0])
        self._note(node, weights, shifts)
        return through_affine(bound, norms, [float(t.norm()) * places for t in (*shifts, shifts[0] - shifts[1])])

    def _note(self, node: Any, weights: Sequence[Tensor], shifts: Sequence[Tensor]) -> None:
        self.statistics.append(statistics_of(str(node.target), weights, shifts))

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
        bound = self._bounds.get(node, DifferenceBound(INFINITE, INFINITE, INFINITE))
        return LayerBound(
            name, bound.delta, float(moved.max()), float(moved.mean()), float(original.norm(dim=1).mean()), g
        )


def _detached(value: Any) -> Any:
    torch = need("torch")
    return value.clone() if torch.is_tensor(value) else value
