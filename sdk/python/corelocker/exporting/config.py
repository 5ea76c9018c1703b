"""What to export: one target, and `corelocker.toml`, which holds a whole build.

    [model]
    factory = "tools.demo_model.fashion_mobilenet:calibrated"   # or a .pt2 file
    id = "classifier"
    version = 3

    [lock]                                   # optional: without it the files are exported and not locked
    preset = "hardened"                      # hardened | balanced | minimal | cover; the keys below count instead of it
    tiers = "free=1,plus=0.02,full=0"
    unit = "sign"                            # value | sign
    require = "collapse"                     # collapse | at-most=FRACTION | none
    samples = "inputs.npz"                   # what the locked files are measured on; .npy, .npz or a folder of images
    measure_seconds = 600                    # for which the files may be run
    base = "public.safetensors"              # what the model was tuned from: the lock is held to what it gives away
    criterion = "l1"                         # l1 | bn-scale | random | sensitivity (runs the factory's module)
    scope = "layer"                          # layer | global
    fill = "decoy"                           # zero | decoy
    consumers = false
    include_io = false
    exclude = ["*.classifier"]               # layers to leave alone
    seed = "..."                             # for a repeatable lock; as secret as the keystore
    source = "checkpoint.safetensors"        # BatchNorm scales for bn-scale, unfolded weights for l1
    input_stats = "0.45/0.22"                # mean / spread of the inputs, for sensitivity
    save_plan = "plan.json"
    keystore = "keys.json"

    [[target]]
    name = "classifier"                      # classifier.pte
    format = "executorch"                    # executorch | coreml
    backend = "xnnpack"                      # executorch: portable | xnnpack
    quantize = "int8"                        # executorch on xnnpack: int8 | int4; coreml: int8
    external_weights = false                 # executorch: weights in classifier.ptd

    [[target]]
    name = "classifier"                      # classifier.mlpackage
    format = "coreml"
    precision = "fp16"                       # coreml: fp16 | fp32

Every key of `[lock]` may be left out; paths are relative to the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from corelocker.configuration import Table, read_toml
from corelocker.errors import ConfigError
from corelocker.locking.options import CriterionName, Fill, LockOptions, PresetName, Scope, default_unit
from corelocker.locking.requirement import Requirement
from corelocker.locking.tiers import Unit, parse_tiers

Format = Literal["executorch", "coreml"]
Backend = Literal["portable", "xnnpack"]
Precision = Literal["fp16", "fp32"]
PteQuantize = Literal["int8", "int4"]
PackageQuantize = Literal["int8"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SUFFIX: Mapping[str, str] = {"executorch": ".pte", "coreml": ".mlpackage"}


@dataclass(frozen=True)
class ExportTarget:
    """One file to export. Raises ConfigError for values that do not exist or exclude each other.

    Attributes:
        name: of the file, without its suffix.
        format: "executorch" or "coreml".
        backend: "portable" or "xnnpack" (the default); ExecuTorch only.
        quantize: None, "int8", or for ExecuTorch "int4"; ExecuTorch quantizes on XNNPACK only.
        precision: "fp16" (the default) or "fp32"; Core ML only.
        external_weights: whether the weights go to a `.ptd`; ExecuTorch only.
    """

    name: str
    format: Format
    backend: Backend | None = None
    quantize: PteQuantize | None = None
    precision: Precision | None = None
    external_weights: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"target name {self.name!r} is not a file name of letters, digits, '.', '_' and '-'")
        where = f"target {self.name!r}"
        _choice(where, "format", self.format, get_args(Format))
        if self.format == "executorch":
            object.__setattr__(self, "backend", self.backend or "xnnpack")
            _choice(where, "backend", self.backend, get_args(Backend))
            _choice(where, "quantize", self.quantize, (None, *get_args(PteQuantize)))
            if self.quantize is not None and self.backend != "xnnpack":
                raise ConfigError(f"{where}: quantize needs backend xnnpack; the portable kernels run float models")
            if self.precision is not None:
                raise ConfigError(f"{where}: precision is for format coreml; ExecuTorch keeps the model's own")
        else:
            object.__setattr__(self, "precision", self.precision or "fp16")
            _choice(where, "precision", self.precision, get_args(Precision))
            _choice(where, "quantize", self.quantize, (None, *get_args(PackageQuantize)))
            for key in ("backend", "external_weights"):
                if getattr(self, key):
                    raise ConfigError(f"{where}: {key} is for format executorch")

    @property
    def filename(self) -> str:
        """The name with the suffix of the format."""
        return self.name + SUFFIX[self.format]


@dataclass(frozen=True)
class ExportConfig:
    """A parsed `corelocker.toml`.

    Attributes:
        factory: what `load_model` takes.
        model_id, model_version: for the key bundle; both are there when `lock` is.
        lock: None when the file has no such section.
        keystore: that of the section, if it names one.
        targets: at least one; no two write the same file.
        require: what the locked files may be worth.
    """

    factory: str
    model_id: str | None
    model_version: int | None
    lock: LockOptions | None
    keystore: Path | None
    targets: tuple[ExportTarget, ...]
    require: Requirement = field(default_factory=Requirement)


Field = type | tuple[str, ...]
MODEL: dict[str, Field] = {"factory": str, "id": str, "version": int}
LOCK: dict[str, Field] = {
    "tiers": str,
    "criterion": get_args(CriterionName),
    "scope": get_args(Scope),
    "fill": get_args(Fill),
    "preset": get_args(PresetName),
    "unit": get_args(Unit),
    "consumers": bool,
    "include_io": bool,
    "exclude": list,
    "seed": str,
    "source": str,
    "input_stats": str,
    "save_plan": str,
    "require": str,
    "samples": str,
    "measure_seconds": int,
    "base": str,
    "keystore": str,
}
TARGET: dict[str, Field] = {
    "name": str,
    "format": get_args(Format),
    "backend": get_args(Backend),
    "quantize": get_args(PteQuantize),
    "precision": get_args(Precision),
    "external_weights": bool,
}
MAX_VERSION = 2**53 - 1


def parse_config(path: Path) -> ExportConfig:
    """Read a `corelocker.toml`.

    Raises FileAccessError when it cannot be read, TierError for tiers that are not nested, and ConfigError naming the key and
    what belongs there for everything else.
    """
    top = read_toml(path)
    model = top.optional_table("model", _model, None)
    if model is None:
        raise top.refuse("[model]", "missing; it needs the key factory")
    unlocked: tuple[LockOptions | None, Path | None, Requirement] = (None, None, Requirement())
    lock, keystore, require = top.optional_table("lock", lambda table: _lock(table, path.parent), unlocked)
    targets: list[ExportTarget] = []
    for table in top.tables("target"):
        values = _read(table, TARGET, required=("name", "format"))
        try:
            target = ExportTarget(**values)
        except ConfigError as error:
            raise ConfigError(f"{path.name}: {error}") from None
        if any(target.filename.lower() == other.filename.lower() for other in targets):
            raise table.refuse("name", f"another target writes {target.filename} too")
        targets.append(target)
    if not targets:
        raise top.refuse("[[target]]", "missing; there has to be one at least")
    top.end()
    factory: str = model["factory"]
    if factory.endswith(".pt2"):
        factory = str(path.parent / factory)
    if lock is not None:
        for key in ("id", "version"):
            if key not in model:
                raise top.refuse(f"model.{key}", "missing; locking needs it")
        lock = replace(lock, model=factory)
    return ExportConfig(factory, model.get("id"), model.get("version"), lock, keystore, tuple(targets), require)


def _model(table: Table) -> dict[str, Any]:
    model = _read(table, MODEL, required=("factory",))
    if not NAME.fullmatch(model.get("id", "model")):
        raise table.refuse("id", "a name of letters, digits, '.', '_' and '-' belongs here")
    return model


def _lock(table: Table, folder: Path) -> tuple[LockOptions | None, Path | None, Requirement]:
    """The options of the section, the keystore that it names, and what it requires."""
    given = _read(table, LOCK)
    if "tiers" in given:
        given["tiers"] = parse_tiers(given["tiers"], given.get("unit") or default_unit(given.get("preset")))
    for key in ("source", "save_plan", "samples", "base", "keystore"):
        if key in given:
            given[key] = folder / given[key]
    keystore = given.pop("keystore", None)
    require = Requirement.parse(given.pop("require", "collapse"))
    return LockOptions(**given), keystore, require


def _read(table: Table, fields: Mapping[str, Field], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entries of a table that are there, by the type that each has."""
    values: dict[str, Any] = {}
    for name, kind in fields.items():
        value: Any
        if isinstance(kind, tuple):
            value = table.optional_choice(name, *kind)
        elif kind is bool:
            value = table.flag(name, False) or None
        elif kind is int:
            value = table.optional_integer(name, 0, MAX_VERSION)
        elif kind is list:
            value = table.texts(name) or None
        else:
            value = table.optional_text(name)
        if name in required:
            table.needed(name, value)
        if value is not None:
            values[name] = value
    return values


def _choice(where: str, key: str, value: object, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{where}: {key} is {_shown(value)}; allowed are {', '.join(a for a in allowed if a is not None)}"
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
