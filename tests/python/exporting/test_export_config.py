"""corelocker.toml."""

from __future__ import annotations

from pathlib import Path

import pytest
from corelocker.errors import (
    ConfigError,
    FileAccessError,
    TierError,
)
from corelocker.exporting import (
    ExportTarget,
    parse_config,
)
from corelocker.locking.options import LockOptions

ROOT = Path(__file__).resolve().parents[3]


EXAMPLE = ROOT / "tests" / "data" / "corelocker.toml"


def test_example_config() -> None:
    config = parse_config(EXAMPLE)
    assert config.factory == "tools.demo_model.fashion_mobilenet:calibrated"
    assert (config.model_id, config.model_version) == ("fashion-classifier", 3)
    assert config.lock is not None
    assert [(tier.name, tier.removed) for tier in config.lock.tiers or ()] == [
        ("free", 0.05),
        ("plus", 0.01),
        ("full", 0),
    ]
    assert (config.lock.exclude, config.lock.seed) == (("*classifier*",), None)
    assert (config.keystore, config.lock.source) == (EXAMPLE.parent / "keys.json", None)
    assert (config.lock.fill, config.lock.scope, config.lock.criterion) == ("decoy", "layer", "l1")
    assert [target.filename for target in config.targets] == [
        "classifier.pte",
        "classifier-int8.pte",
        "classifier-portable.pte",
        "classifier.mlpackage",
    ]
    assert config.targets[1] == ExportTarget("classifier-int8", "executorch", backend="xnnpack", quantize="int8")
    assert config.targets[3].precision == "fp16"


def test_config_of_a_pt2_without_locking(tmp_path: Path) -> None:
    path = tmp_path / "corelocker.toml"
    path.write_text('[model]\nfactory = "m.pt2"\n[[target]]\nname = "m"\nformat = "executorch"\n')
    config = parse_config(path)
    assert config.factory == str(tmp_path / "m.pt2")
    assert config.lock is None
    assert config.targets == (ExportTarget("m", "executorch", backend="xnnpack"),)
    path.write_text(path.read_text().replace("[[target]]", 'id = "a"\nversion = 1\n[lock]\n[[target]]'))
    assert parse_config(path).lock == LockOptions(model=str(tmp_path / "m.pt2"))


MODEL = '[model]\nfactory = "a:b"\nid = "m"\nversion = 1\n'


TARGET = '[[target]]\nname = "m"\nformat = "executorch"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"\[model\]: missing"),
        ("[model", "not TOML"),
        ("\xff", "not TOML"),
        (MODEL, r"\[\[target\]\]: missing"),
        ("[model]\n" + TARGET, r"model\.factory: missing"),
        (MODEL + "[extra]\n" + TARGET, "extra: there is no such setting; there are lock, model, target"),
        (MODEL + "name = 1\n" + TARGET, r"model\.name: there is no such setting; there are factory, id, version"),
        (MODEL.replace("= 1", '= "1"') + TARGET, r"model\.version: a whole number"),
        (MODEL.replace("= 1", "= true") + TARGET, r"model\.version: a whole number"),
        (MODEL.replace("= 1", "= -1") + TARGET, r"model\.version: a whole number from 0"),
        (MODEL + "[lock]\nexclude = [1]\n" + TARGET, r"lock\.exclude: a list of texts"),
        (MODEL.replace('"m"', '"../m"') + TARGET, r"model\.id: a name of letters"),
        ("model = 3\n" + TARGET, "model: a table belongs here"),
        (MODEL + "target = 3\n", "model.target: there is no such setting"),
        ("target = [1]\n" + MODEL, "target: a list of tables"),
        ('[model]\nfactory = "a:b"\n[lock]\n' + TARGET, r"model\.id: missing; locking needs it"),
        (MODEL + '[lock]\ncriterion = "l2"\n' + TARGET, r"lock\.criterion: one of l1, bn-scale, random"),
        (MODEL + "[lock]\nfill = 0\n" + TARGET, r"lock\.fill: a text"),
        (MODEL + "[lock]\nconsumers = 1\n" + TARGET, r"lock\.consumers: true or false"),
        (MODEL + "[lock]\nseed = 7\n" + TARGET, r"lock\.seed: a text"),
        (MODEL + '[lock]\ntier = ""\n' + TARGET, r"lock\.tier: there is no such setting"),
        (MODEL + TARGET.replace("executorch", "onnx"), r"target\[0\]\.format: one of executorch, coreml"),
        (MODEL + TARGET.replace('name = "m"\n', ""), r"target\[0\]\.name: missing"),
        (MODEL + TARGET.replace('format = "executorch"\n', ""), r"target\[0\]\.format: missing"),
        (MODEL + TARGET.replace('"m"', '"a/b"'), "'a/b' is not a file name"),
        (MODEL + TARGET + 'backend = "vulkan"\n', r"target\[0\]\.backend: one of portable, xnnpack"),
        (MODEL + TARGET + 'quantize = "int3"\n', r"target\[0\]\.quantize: one of int8, int4"),
        (MODEL + TARGET + 'quantize = "int8"\nbackend = "portable"\n', "quantize needs backend xnnpack"),
        (MODEL + TARGET + 'precision = "fp16"\n', "precision is for format coreml"),
        (MODEL + TARGET + "external_weights = 1\n", r"target\[0\]\.external_weights: true or false"),
        (
            MODEL + TARGET.replace("executorch", "coreml") + 'quantize = "int4"\n',
            "quantize is 'int4'; allowed are int8",
        ),
        (MODEL + TARGET.replace("executorch", "coreml") + 'backend = "xnnpack"\n', "backend is for format executorch"),
        (MODEL + TARGET.replace("executorch", "coreml") + "external_weights = true\n", "external_weights is for"),
        (MODEL + TARGET + TARGET.replace('"m"', '"M"'), r"target\[1\]\.name: another target writes M\.pte too"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)
def test_bad_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "corelocker.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as raised:
        parse_config(path)
    assert "corelocker.toml: " in str(raised.value)


def test_config_with_tiers_that_are_not_nested(tmp_path: Path) -> None:
    path = tmp_path / "corelocker.toml"
    path.write_text(MODEL + '[lock]\ntiers = "free=0.01,full=0.5"\n' + TARGET)
    with pytest.raises(TierError):
        parse_config(path)


def test_config_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError):
        parse_config(tmp_path / "none.toml")
    with pytest.raises(FileAccessError):
        parse_config(tmp_path)
    (tmp_path / "large.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="more than"):
        parse_config(tmp_path / "large.toml")
