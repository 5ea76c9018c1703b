"""How well an artifact works in each state: original, every tier, restored, and along a curve of removed fractions.

One `Subject` for all formats: the bytes of its files in a given state go through the runtime that would run them. A `.pte` runs
in ExecuTorch, an `.mlpackage` in the Linux evaluator (fp32 arithmetic), a checkpoint in its torch module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Artifact, WeightTensor
from corelocker.audit import need
from corelocker.audit.data import DataSet, Interval, Measured, Metric
from corelocker.errors import ConfigError, FileAccessError, LockingError
from corelocker.files import write_atomically
from corelocker.locking.criteria import Scores
from corelocker.locking.drawing import lock_artifacts
from corelocker.locking.locked import LockedArtifact, LockedFile
from corelocker.locking.options import CriterionName, Fill, Scope
from corelocker.locking.plan import Plan, make_plan
from corelocker.locking.tiers import Tier
from corelocker.runs import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

State = Mapping[str, npt.NDArray[np.uint8]]  # file name inside the artifact -> its bytes
Coverage = dict[
    str, npt.NDArray[np.uint8]
]  # file name -> for each byte the tier whose patch restores it, 0 if not locked
Progress = Callable[[str, int, int], None]
BATCH = 250
CHUNK = 1 << 22  # bytes
QUICK_FRACTIONS = (0.20, 0.10, 0.05, 0.02, 0.01, 0.005)
FRACTIONS = (0.50, 0.30, 0.20, 0.15, 0.10, 0.075, 0.05, 0.03, 0.02, 0.01, 0.005, 0.0025)


def no_progress(stage: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


# --- running ---------------------------------------------------------------------------------------------------------


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


# --- results that survive an interruption ----------------------------------------------------------------------------


class Work:
    """Results by the content of what they depend on, kept in a folder (or, without one, for this run)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._held: dict[str, Any] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileAccessError(f"{folder}: {error.strerror or error}") from None

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The JSON value of this key; made and kept when it is not there. A damaged file is made again."""
        if key in self._held:
            return self._held[key]
        path = None if self.folder is None else self.folder / f"{key}.json"
        value = None
        if path is not None and path.exists():
            try:
                value = json.loads(path.read_bytes())
            except (OSError, ValueError):
                value = None
        if value is None:
            value = make()
            if path is not None:
                with write_atomically(path, force=True, mode=0o600) as file:
                    file.write(json.dumps(value).encode())
        self._held[key] = value
        return value


def content_key(*parts: object) -> str:
    """A name for what a result depends on: SHA-256 over the representations, 40 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, (bytes, memoryview)) else repr(part).encode()
        sha256.update(len(data).to_bytes(8, "little"))
        sha256.update(data)
    return sha256.hexdigest()[:40]


# --- states ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TierBytes:
    """An artifact at one tier.

    Attributes:
        name: of the tier.
        removed: share of the channels of all lockable layers that are locked in it.
        locked_bytes, locked_fraction: size of the access key from here to the original, in bytes and of all lockable layers.
        patch_bytes: what this tier's own patch puts back.
        files: the bytes.
    """

    name: str
    removed: float
    locked_bytes: int
    locked_fraction: float
    patch_bytes: int
    files: State = field(repr=False)


@dataclass(frozen=True)
class LayerMap:
    """Where a layer is locked: for each channel the tier that restores it, 0 for not locked; uint8 (channels,)."""

    name: str
    role: str
    shape: tuple[int, ...]
    tier_of: npt.NDArray[np.uint8]


def original_state(artifact: Artifact) -> State:
    """The bytes of the artifact's files, as they are."""
    return {file.name: file.data for file in artifact.files}


class _Applied(Mapping[str, npt.NDArray[np.uint8]]):
    """The files in the state of a tier, made when they are read: a curve has a dozen states of a file that may be large."""

    def __init__(self, files: Sequence[LockedFile], tier: int) -> None:
        self._files = {file.file.name: file for file in files}
        self._tier = tier

    def __getitem__(self, name: str) -> npt.NDArray[np.uint8]:
        data = self._files[name].file.data.copy()
        self._files[name].overlay.apply(0, data, self._tier)
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def states_of_plan(artifact: Artifact, plan: Plan) -> tuple[list[TierBytes], Coverage, LockedArtifact]:
    """Every tier of a plan, locked in memory, and which bytes are locked."""
    (locked,) = lock_artifacts([artifact], plan)
    coverage = {file.name: np.zeros(len(file), np.uint8) for file in artifact.files}
    for file in locked.files:
        for run, tier, _ in chain.from_iterable(file.overlay.runs):
            mark(coverage[file.file.name], run, tier)
    states = [_Applied(locked.files, index) for index in range(len(plan.tiers))]
    return tier_bytes(artifact, [t.name for t in plan.tiers], states, coverage), coverage, locked


def tier_bytes(
    artifact: Artifact, names: Sequence[str], states: Sequence[State], coverage: Coverage
) -> list[TierBytes]:
    """Tiers from the bytes of each state; `artifact` is the original."""
    layers = layer_maps(artifact, coverage)
    sizes = np.zeros(len(names), np.int64)
    for tier_at in coverage.values():
        for start in range(0, tier_at.size, CHUNK):  # bincount takes eight bytes for each
            sizes += np.bincount(tier_at[start : start + CHUNK], minlength=len(names))
    weight_bytes = max(1, sum(part.size for t in artifact.tensors for part in t.parts))
    total = max(1, sum(layer.tier_of.size for layer in layers))
    tiers = []
    for index, name in enumerate(names):
        channels = sum(int((layer.tier_of > index).sum()) for layer in layers)
        held = int(sizes[index + 1 :].sum())
        patch = int(sizes[index]) if index else 0
        tiers.append(TierBytes(name, channels / total, held, held / weight_bytes, patch, states[index]))
    return tiers


def mark(tier_at: npt.NDArray[np.uint8], run: Run, tier: int) -> None:
    """Note that the bytes of the run come back with this tier."""
    step = run.stride if run.count > 1 else run.length
    np.lib.stride_tricks.as_strided(tier_at[run.offset :], (run.count, run.length), (step, 1))[:] = tier


def layer_maps(artifact: Artifact, coverage: Coverage) -> list[LayerMap]:
    """Where an artifact is locked, layer by layer."""
    return [
        LayerMap(t.name, t.role, t.shape, tiers_of_channels(t, coverage[t.weight.file.name])) for t in artifact.tensors
    ]


def tiers_of_channels(tensor: WeightTensor, tier_at: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The tier from which on a channel is not locked as a whole, uint8 (channels,): locked are channels whose every weight is."""
    found = np.zeros(tensor.channels, np.uint8)
    for channel in range(tensor.channels):
        run = tensor.weight.run(channel)
        if run is not None:
            step = run.stride if run.count > 1 else run.length
            view = np.lib.stride_tricks.as_strided(
                tier_at[run.offset :], (run.count, run.length), (step, 1), writeable=False
            )
            found[channel] = view.min()
    return found


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TierUtility:
    """A tier and what it is worth."""

    name: str
    removed: float
    locked_bytes: int
    locked_fraction: float
    patch_bytes: int
    utility: Interval


@dataclass(frozen=True)
class CurvePoint:
    """Utility when a fraction of the channels is removed.

    `series` is the criterion, "random" the baseline: its value is the mean over `repeats` draws, its interval at least their
    range.
    """

    series: str
    removed: float
    locked_bytes: int
    locked_fraction: float
    utility: Interval
    repeats: int = 1


@dataclass
class Subject:
    """What is audited.

    Attributes:
        artifact: the original.
        evaluator: runs it.
        data, metric: how its utility is measured.
        seed: of bootstraps.
        work: keeps finished measurements.
    """

    artifact: Artifact
    evaluator: Evaluator
    data: DataSet
    metric: Metric
    seed: int = 0
    work: Work = field(default_factory=Work)
    _data_digest: str = field(default="", init=False)
    _width: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._data_digest = self.data.digest()

    def utility(self, state: State) -> Interval:
        """The metric in this state, from `work` when it was measured before."""
        key = content_key(
            "utility", self.artifact.format, *(bytes(hashlib.sha256(d.data).digest()) for d in state.values()),
            self._data_digest, self.metric.identity, self.seed, self.evaluator.identity,
        )  # fmt: skip

        def measure() -> dict[str, float]:
            measured, width = self.evaluator.outputs(state, self.data, self.metric)
            return asdict(self.metric.interval(measured, self.seed)) | {"outputs": width}

        found = self.work.get(key, measure)
        self._width = int(found["outputs"])
        return Interval(found["value"], found["low"], found["high"])

    @property
    def chance(self) -> float | None:
        """What a blind guess gets, once something was measured; see `Metric.chance`."""
        return self.metric.chance(self.data.y, self._width)

    def tiers(self, tiers: Sequence[TierBytes], progress: Progress = no_progress) -> list[TierUtility]:
        """Measure every tier."""
        found = []
        for done, tier in enumerate(tiers):
            progress("tiers", done, len(tiers))
            found.append(
                TierUtility(
                    tier.name, tier.removed, tier.locked_bytes, tier.locked_fraction, tier.patch_bytes,
                    self.utility(tier.files),
                )
            )  # fmt: skip
        progress("tiers", len(tiers), len(tiers))
        return found

    def curve(
        self,
        fractions: Sequence[float],
        score: Callable[[WeightTensor], Scores],
        *,
        criterion: CriterionName,
        scope: Scope = "layer",
        fill: Fill = "decoy",
        consumers: bool = False,
        include_io: bool = False,
        exclude: Sequence[str] = (),
        repeats: int = 1,
        stage: str = "curve",
        progress: Progress = no_progress,
    ) -> list[CurvePoint]:
        """Lock the artifact at each of the fractions with the given scores (nested, as tiers are) and measure.

        `repeats` draws other decoys with other seeds, and with criterion "random" other channels; their mean is the value.
        """
        steps = sorted({f for f in fractions if 0 < f < 1}, reverse=True)
        if not steps:
            raise LockingError("a curve needs fractions between 0 and 1")
        tiers = [Tier(f"f{i}", f) for i, f in enumerate(steps)] + [Tier("full", 0.0)]
        drawn: list[list[tuple[TierBytes, Interval]]] = []
        for repeat in range(repeats):
            secret = f"curve/{self.seed}/{repeat}".encode()
            plan = make_plan(
                [self.artifact],
                tiers,
                _random(secret) if criterion == "random" else score,
                criterion=criterion,
                scope=scope,
                fill=fill,
                seed=secret,
                consumers=consumers,
                include_io=include_io,
                exclude=exclude,
            )
            states, _, _ = states_of_plan(self.artifact, plan)
            row = []
            for place, state in enumerate(states[:-1]):
                progress(stage, repeat * len(steps) + place, repeats * len(steps))
                row.append((state, self.utility(state.files)))
            drawn.append(row)
        progress(stage, repeats * len(steps), repeats * len(steps))
        return [
            _mean_point(criterion, fraction, [row[place] for row in drawn]) for place, fraction in enumerate(steps)
        ][::-1]


def _random(secret: bytes) -> Callable[[WeightTensor], Scores]:
    from corelocker.locking.criteria import random_scores

    return lambda tensor: random_scores(tensor, secret)


def _mean_point(series: str, fraction: float, drawn: Sequence[tuple[TierBytes, Interval]]) -> CurvePoint:
    values = [i.value for _, i in drawn]
    return CurvePoint(
        series,
        fraction,
        round(float(np.mean([s.locked_bytes for s, _ in drawn]))),
        float(np.mean([s.locked_fraction for s, _ in drawn])),
        Interval(float(np.mean(values)), min(i.low for _, i in drawn), max(i.high for _, i in drawn)),
        len(drawn),
    )
