"""Running a model in a given state.

A `.pte` runs in ExecuTorch, an `.mlpackage` in the Linux evaluator (fp32 arithmetic), a checkpoint in its torch module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corelocker.artifacts import Artifact
from corelocker.audit import need
from corelocker.audit.data import DataSet, Measured, Metric
from corelocker.audit.tier_bytes import State
from corelocker.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn


BATCH = 250


class Evaluator:
    """Runs the states of one artifact.

    Args:
        artifact: what is evaluated; its path tells the format.
        module: for a checkpoint the module that it belongs to; used as a copy.
    """

    def __init__(self, artifact: Artifact, module: nn.Module | None = None) -> None:
        self._artifact = artifact
        self._module = deepcopy(module).eval() if module is not None else None
        if artifact.format == "safetensors" and module is None:
            raise ConfigError(
                "a checkpoint is weights without a model", hint="Name the model with --model package.module:factory"
            )
        if artifact.format == "coreml-compiled":
            raise ConfigError("a compiled Core ML model does not run here", hint="Audit the .mlpackage it came from")

    @property
    def identity(self) -> str:
        """What runs besides the bytes: the module's layers, or the program around the weights of a package."""
        if self._artifact.format == "coreml":
            from corelocker.audit.mlprogram import MODEL

            return hashlib.sha256((self._artifact.path / MODEL).read_bytes()).hexdigest()
        return repr(self._module)

    def outputs(self, state: State, data: DataSet, metric: Metric) -> tuple[list[Measured], int]:
        """Run all of `data` in this state; returns what the metric saw, and the number of outputs (classes, tokens)."""
        run = self._runner(state)
        measured, width = [], 0
        for start in range(0, len(data), BATCH):
            part = data.take(slice(start, start + BATCH))
            found = run(part.x)
            width = int(found.shape[-1]) if found.dim() > 1 else 1
            measured.append(metric.measure(found, part.y))
        return measured, width

    def _runner(self, state: State) -> Callable[[Tensor], Tensor]:
        if self._module is not None and self._artifact.format == "safetensors":
            return module_runner(load_state(self._module, self.state_dict(state)))
        if self._artifact.format == "executorch":
            return _program_runner(state)
        return _package_runner(self._artifact.path, state)

    @staticmethod
    def state_dict(state: State) -> dict[str, Tensor]:
        """The tensors of a checkpoint in this state."""
        load = need("safetensors.torch").load
        found: dict[str, Tensor] = {}
        for data in state.values():
            found |= load(data.tobytes())
        return found


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Put a state dict into the module; of tied parameters one name is enough. Raises ConfigError when it is another model's."""
    try:
        module.load_state_dict(with_tied(module, state))
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ConfigError(f"the checkpoint does not fit the model: {lines[min(1, len(lines) - 1)].strip()}") from None
    return module.eval()


def with_tied(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with every name of the parameters that the module ties; checkpoints store one."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    complete = dict(state)
    for same in names.values():
        known = next((state[name] for name in same if name in state), None)
        complete |= {name: known for name in same if known is not None and name not in state}
    return complete


def module_runner(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Call a module on batches, without gradients."""
    torch = need("torch")

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return first_tensor(module(x))

    return run


def first_tensor(found: Any) -> Tensor:
    """The logits among what a model returns: a tensor, the first of a tuple, or `logits`."""
    torch = need("torch")
    if isinstance(found, dict):
        found = found.get("logits", next(iter(found.values()), None))
    found = getattr(found, "logits", found)
    while isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not torch.is_tensor(found):
        raise ConfigError(f"the model returns a {type(found).__name__}, not a tensor")
    return found


def measure_module(module: nn.Module, data: DataSet, metric: Metric) -> list[Measured]:
    """What the metric sees of a module in inference mode; `metric.value` or `metric.interval` makes it a number."""
    training = module.training
    run = module_runner(module.eval())
    try:
        parts = (data.take(slice(start, start + BATCH)) for start in range(0, len(data), BATCH))
        return [metric.measure(run(part.x), part.y) for part in parts]
    finally:
        module.train(training)


def _program_runner(state: State) -> Callable[[Tensor], Tensor]:
    from corelocker.exporting._steps import quiet
    from corelocker.runtime.executorch import RestoredModule

    torch = need("torch")
    program = next(data for name, data in state.items() if name.endswith(".pte"))
    data_map = next((data for name, data in state.items() if not name.endswith(".pte")), None)
    with quiet():
        loaded = RestoredModule(program.data, None if data_map is None else data_map.data)
    step = max(1, loaded.batch_size("forward"))

    def run(x: Tensor) -> Tensor:
        rows = []
        for start in range(0, len(x), step):
            part = x[start : start + step].contiguous()
            missing = step - len(part)  # a program has the batch size that it was exported with
            if missing:
                part = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])])
            try:
                found = first_tensor(loaded.forward([part]))
            except RuntimeError as error:
                raise ConfigError(f"ExecuTorch does not run the program on this data: {error}") from None
            rows.append(found[: step - missing].clone())
        return torch.cat(rows)

    return run


def _package_runner(package: Path, state: State) -> Callable[[Tensor], Tensor]:
    from corelocker.audit.mlprogram import MlProgramEvaluator

    program = MlProgramEvaluator(package, next(iter(state.values())).data)
    names = list(program.inputs)
    if len(names) != 1:
        raise ConfigError(f"{package.name}: has {len(names)} inputs ({', '.join(names)}); one is needed")

    def run(x: Tensor) -> Tensor:
        try:
            return first_tensor(program.batch({names[0]: x}))
        except (NotImplementedError, RuntimeError) as error:
            raise ConfigError(f"{package.name}: the evaluator cannot run it: {error}") from None

    return run
