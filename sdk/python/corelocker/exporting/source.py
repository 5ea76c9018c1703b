"""The model that is exported: from a Python factory, or from a `.pt2` file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corelocker.errors import ConfigError, ExportError
from corelocker.exporting._steps import need, step
from corelocker.factories import call, find_function

Inputs = tuple[Any, ...]
SEED = 0
NO_CALIBRATION = (
    "int8 ranges were taken from the example inputs alone, so accuracy may suffer; "
    "let the factory return calibration inputs as a third value"
)


@dataclass
class ExportSource:
    """A model in the form that every target starts from.

    Attributes:
        spec: where it came from.
        program: `torch.export.ExportedProgram`, in inference mode. Targets copy it and leave it as it is.
        args, kwargs: example inputs, of the shapes and dtypes that the program takes.
        calibration: input tuples that show int8 quantization what activations look like; None when there are none.
    """

    spec: str
    program: Any
    args: Inputs
    kwargs: dict[str, Any] = field(default_factory=dict)
    calibration: Iterable[Any] | None = None

    def calibration_inputs(self) -> tuple[list[Inputs], str | None]:
        """Every calibration input, and a warning when the example inputs had to stand in for them.

        An iterable that can be read only once is kept, so that several targets see the same inputs. Raises ExportError
        for an item that is not a tuple of as many values as the model takes.
        """
        if self.calibration is None:
            return [self.args], NO_CALIBRATION
        if not isinstance(self.calibration, list):
            iterable = self.calibration
            with step("read the calibration inputs"):
                self.calibration = _seeded(lambda: list(iterable))
        for index, item in enumerate(self.calibration):
            if not isinstance(item, (tuple, list)) or len(item) != len(self.args):
                found = f"a tuple of {len(item)}" if isinstance(item, (tuple, list)) else f"a {type(item).__name__}"
                raise ExportError(
                    f"calibration input {index} is {found}; it must be a tuple of {len(self.args)}, as the example is"
                )
        if not self.calibration:
            raise ExportError("the calibration inputs are empty", hint="Leave them out to use the example inputs")
        return [tuple(item) for item in self.calibration], None


def load_model(spec: str) -> ExportSource:
    """Load a model and capture it with `torch.export`.

    Args:
        spec: `package.module:factory`, where the factory takes nothing and returns (module, example_inputs) or (module,
            example_inputs, calibration_inputs): a `torch.nn.Module`, a tuple of inputs, and an iterable of such tuples. The
            working directory is importable, as with `python -m`. torch's random numbers are seeded while the factory runs, and
            the module is put into inference mode. Or the path of a `.pt2` file that `torch.export.save` wrote.

    Raises MissingExtraError without torch, FileAccessError for a `.pt2` that cannot be read, and ExportError when the factory
    cannot be imported or called, returns something else, or its module cannot be captured.
    """
    if spec.endswith(".pt2"):
        return _load_pt2(Path(spec))
    if ":" not in spec:
        raise ExportError(f"{spec!r} is neither package.module:factory nor a .pt2 file")
    return capture(spec, _call_factory(spec))


def _call_factory(spec: str) -> Any:
    torch = need("torch")
    try:
        factory = find_function(spec)
        if isinstance(factory, torch.nn.Module):
            raise ExportError(
                f"{spec}: is a {type(factory).__name__}, not a function",
                hint="Name a function that returns (module, example_inputs)",
            )
        return call(spec, lambda: _seeded(factory))
    except ConfigError as error:
        raise ExportError(str(error)) from error


def _seeded(call: Callable[[], Any]) -> Any:
    """Call with torch's generator seeded, so that random weights or inputs are the same in the next run."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return call()


def capture(spec: str, made: Any) -> ExportSource:
    """What a factory returned (see `load_model`), captured with `torch.export`; `spec` names it in errors. Raises ExportError."""
    import torch

    if not isinstance(made, tuple) or len(made) not in (2, 3):
        found = f"a tuple of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__name__}"
        raise ExportError(
            f"{spec}: the factory returned {found}, not (module, example_inputs) or (module, example_inputs, calibration_inputs)"
        )
    module, args, *rest = made
    if not isinstance(module, torch.nn.Module):
        raise ExportError(f"{spec}: the factory's first value is a {type(module).__name__}, not a torch.nn.Module")
    if not isinstance(args, tuple) or not args:
        raise ExportError(
            f"{spec}: example_inputs is {'empty' if args == () else f'a {type(args).__name__}'}, not a tuple of inputs",
            hint="Mind the comma: (x,)",
        )
    calibration = rest[0] if rest else None
    if isinstance(calibration, (torch.Tensor, str)) or not (calibration is None or isinstance(calibration, Iterable)):
        raise ExportError(
            f"{spec}: calibration_inputs is a {type(calibration).__name__}, not an iterable of input tuples"
        )
    with step("torch.export"), torch.no_grad():
        program = torch.export.export(module.eval(), args, strict=False)
    _refuse_training_mode(spec, program)
    return ExportSource(spec, program, args, {}, calibration)


def _refuse_training_mode(spec: str, program: Any) -> None:
    """Dropout and batch statistics would be exported as they were captured, and wreck the model."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not any(name in schema.name for name in ("dropout", "batch_norm")):
            continue
        given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
        if given.get("training", given.get("train")) is True:
            raise ExportError(
                f"{spec}: was captured in training mode ({node.name})", hint="Call model.eval() before torch.export"
            )


def _load_pt2(path: Path) -> ExportSource:
    need("torch")
    from corelocker.exporting.pt2 import load_archive

    program = load_archive(path)
    if program.example_inputs is None:
        raise ExportError(f"{path}: has no example inputs", hint="Save it again with torch.export.save")
    _refuse_training_mode(str(path), program)
    args, kwargs = program.example_inputs
    return ExportSource(str(path), program, tuple(args), dict(kwargs))
