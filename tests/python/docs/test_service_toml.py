"""docs/configuration.md, section service.toml: each key that the reader knows is there, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from corelocker.configuration import Table
from corelocker.service import config_file
from corelocker.service.config_file import load_config
from support.configuration_page import rows, section

EVERYTHING = """
environment = "development"
issuer = "https://unlock.example.com"
database_url = "sqlite:///unlock.sqlite"
[keys]
provider = "pkcs11"
keystore = "keys.json"
[keys.pkcs11]
module = "m"
token = "t"
pin_file = "p"
signing_key = "s"
[licenses]
[http]
[audit]
[attestation]
[[apps]]
id = "com.example.app"
[apps.google_play]
service_account_file = "account.json"
[apps.android.play_integrity]
[apps.apple]
app_id = "1234567890.com.example.app"
[apps.development]
[apps.app_store.api]
issuer_id = "i"
key_id = "k"
private_key_file = "f"
[apps.grant]
issuer = "shop"
[[products]]
app = "com.example.app"
product = "full"
bundle = "00000000-0000-0000-0000-000000000007"
tier = "full"
[[models]]
name = "scanner"
"""


def documented() -> dict[str, list[str]]:
    return rows(section("service.toml"), 4)


def read_by(path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys that the reader asks a file with every table for; tables themselves are not among them."""
    seen: set[str] = set()
    value = Table._value

    def spy(self: Table, name: str, kind: type[Any], what: str) -> Any:
        if kind is not dict and what != "a list of tables":
            seen.add(re.sub(r"\[\d+\]", "", self._where) + name)
        return value(self, name, kind, what)

    monkeypatch.setattr(Table, "_value", spy)
    load_config(path)
    return seen


def test_every_key_is_documented_and_every_documented_key_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "service.toml").write_text(EVERYTHING)
    keys = documented().keys()
    assert keys == read_by(tmp_path / "service.toml", monkeypatch)
    assert len(keys) > 70


def test_defaults_of_the_page_are_those_of_the_code() -> None:
    """The whole numbers among them."""
    numbers = {name: re.match(r"([0-9][0-9,]*)\b", default) for name, (_, default, _) in documented().items()}
    found = {name: int(number[1].replace(",", "")) for name, number in numbers.items() if number}
    code = {
        **{f"http.{name}": value for name, value in vars(config_file.HttpConfig()).items()},
        **{f"attestation.{name}": value for name, value in vars(config_file.AttestationConfig()).items()},
        **{f"licenses.{name}": value for name, value in vars(config_file.LicenseConfig()).items()},
        **{f"licenses.{name}": value for name, value in vars(config_file.LicenseConfig().rules).items()},
    }
    checked = {name: code[name] for name in found if name in code}
    assert {name: found[name] for name in checked} == checked
    assert len(checked) >= 14
