"""What to export: one target, and `corelocker.toml`, which holds a whole build.

    [model]
    factory = "tools.demo_model.fashion_mobilenet:calibrated"   # or a .pt2 file
    id = "classifier"
    version = 3

    [lock]                                   # optional: without it the files are exported and not locked
    tiers = "free=0.05,plus=0.01,full=0"
    preset = "balanced"                      # minimal | balanced | hardened; the keys below count instead of it
    unit = "value"                           # value | sign
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
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from corelocker.errors import ConfigError, FileAccessError
from corelocker.locking.options import CriterionName, Fill, LockOptions, PresetName, Scope
from corelocker.locking.tiers import Unit, parse_tiers

Format = Literal["executorch", "coreml"]
Backend = Literal["portable", "xnnpack"]
Precision = Literal["fp16", "fp32"]
PteQuantize = Literal["int8", "int4"]
PackageQuantize = Literal["int8"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_CONFIG = 1 << 20  # bytes
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
    """

    factory: str
    model_id: str | None
    model_version: int | None
    lock: LockOptions | None
    keystore: Path | None
    targets: tuple[ExportTarget, ...]


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
TYPES = {str: "a string", int: "a whole number", bool: "true or false", list: "a list of strings"}
MAX_VERSION = 2**53 - 1


def parse_config(path: Path) -> ExportConfig:
    """Read a `corelocker.toml`.

    Raises FileAccessError when it cannot be read, TierError for tiers that are not nested, and ConfigError naming the key and
    what it allows for everything else.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_CONFIG + 1)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if len(text) > MAX_CONFIG:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG} bytes")
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        return _parse(document, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _parse(document: dict[str, Any], folder: Path) -> ExportConfig:
    if unknown := sorted(document.keys() - {"model", "lock", "target"}):
        raise ConfigError(f"unknown section {unknown[0]!r}; allowed are [model], [lock] and [[target]]")
    if "model" not in document:
        raise ConfigError("needs a section [model] with the key factory")
    model = _table("[model]", document["model"], MODEL, required=("factory",))
    lock, keystore = _lock(document["lock"], folder) if "lock" in document else (None, None)
    if lock is not None and (missing := [key for key in ("id", "version") if key not in model]):
        raise ConfigError(f"[model] needs the key {missing[0]!r} for locking")
    if not 0 <= model.get("version", 0) <= MAX_VERSION:
        raise ConfigError(f"[model] version is {model['version']}; it must be between 0 and 2^53 - 1")
    if not NAME.fullmatch(model.get("id", "model")):
        raise ConfigError(f"[model] id {model['id']!r} is not a name of letters, digits, '.', '_' and '-'")
    tables = document.get("target", [])
    if not isinstance(tables, list) or not tables:
        raise ConfigError("needs at least one section [[target]]")
    targets: list[ExportTarget] = []
    for index, table in enumerate(tables):
        where = f"[[target]] {index + 1}"
        target = ExportTarget(**_table(where, table, TARGET, required=("name", "format")))
        if any(target.filename.lower() == other.filename.lower() for other in targets):
            raise ConfigError(f"{where}: another target writes {target.filename} too")
        targets.append(target)
    factory: str = model["factory"]
    if factory.endswith(".pt2"):
        factory = str(folder / factory)
    if lock is not None:
        lock = replace(lock, model=factory)
    return ExportConfig(factory, model.get("id"), model.get("version"), lock, keystore, tuple(targets))


def _lock(value: Any, folder: Path) -> tuple[LockOptions, Path | None]:
    """The options of the section, and the keystore that it names."""
    given = _table("[lock]", value, LOCK)
    if "tiers" in given:
        given["tiers"] = parse_tiers(given["tiers"], given.get("unit", "value"))
    if "exclude" in given:
        given["exclude"] = tuple(given["exclude"])
    for key in ("source", "save_plan", "keystore"):
        if key in given:
            given[key] = folder / given[key]
    keystore = given.pop("keystore", None)
    return LockOptions(**given), keystore


def _table(where: str, value: Any, fields: dict[str, Field], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """A table whose keys are all known and whose values have the right type."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {_shown(value)}, not a section")
    for key, item in value.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}; allowed are {', '.join(fields)}")
        field = fields[key]
        if isinstance(field, tuple):
            _choice(where, key, item, field)
        elif type(item) is not field or (isinstance(item, list) and not all(isinstance(entry, str) for entry in item)):
            # The type itself, not isinstance: true is no whole number.
            raise ConfigError(f"{where}: {key} is {_shown(item)}; it must be {TYPES[field]}")
    for key in required:
        if key not in value:
            raise ConfigError(f"{where}: needs the key {key!r}" + _allowed(fields[key]))
    return dict(value)


def _allowed(field: Field) -> str:
    return f" ({' | '.join(field)})" if isinstance(field, tuple) else ""


def _choice(where: str, key: str, value: object, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{where}: {key} is {_shown(value)}; allowed are {', '.join(a for a in allowed if a is not None)}"
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
