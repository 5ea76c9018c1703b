"""The app configuration, and its vectors that Kotlin and Swift run too."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corelocker.bundle import jose
from corelocker.licensing.app_config import AppConfig
from corelocker.licensing.errors import AppConfigError
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests/vectors/app_config.json").read_text("utf-8"))
GOOD = AppConfig.from_json(base64.b64decode(VECTORS["vectors"][0]["file"]))


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    data = base64.b64decode(vector["file"])
    if vector["expect"] != "ok":
        with pytest.raises(AppConfigError) as raised:
            AppConfig.from_json(data)
        assert raised.value.code == vector["expect"]
        return
    config = AppConfig.from_json(data)
    assert {**shown(config), "license_keys": list(dict.fromkeys(shown(config)["license_keys"]))} == vector["values"]
    assert shown(AppConfig.from_json(config.to_json())) == shown(config)


def shown(config: AppConfig) -> dict[str, Any]:
    keys = [jose.thumbprint(key) for key in config.license_keys]
    return {name: getattr(config, name) for name in config.__dataclass_fields__} | {"license_keys": keys}


def test_vectors_are_what_their_script_makes(tmp_path: Path) -> None:
    script = ROOT / "tools/vectors/make_app_config_vectors.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True)
    assert (tmp_path / "app_config.json").read_bytes() == (ROOT / "tests/vectors/app_config.json").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"service": "http://unlock.example.com"},
        {"service": "https://unlock.example.com/?q"},
        {"environment": "staging"},
        {"issuer": ""},
        {"app": "a\n"},
        {"license_keys": ()},
        {"license_keys": tuple(ec.derive_private_key(n, ec.SECP256R1()).public_key() for n in range(2, 11))},
        {"license_keys": (ec.derive_private_key(2, ec.SECP384R1()).public_key(),)},
        {"publisher": "A" * 42},
        {"offline_grace": -1},
        {"offline_grace": 31_536_001},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_no_reader_takes_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(AppConfigError):
        replace(GOOD, **changes)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(AppConfigError):
        AppConfig.from_json(data)
