"""android_demo without Gradle: what its files promise, and the quick commands of its pipeline."""

from __future__ import annotations

import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "android_demo"
SOURCES = DEMO / "app" / "src"
ANDROID = "{http://schemas.android.com/apk/res/android}"


def xml(path: str) -> ElementTree.Element:
    return ElementTree.parse(SOURCES / path).getroot()


def assets(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DEMO / "model" / "assets.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_clear_text_goes_to_the_emulators_host_alone_and_in_its_flavor_alone() -> None:
    application = xml("main/AndroidManifest.xml").find("application")
    assert application is not None
    assert application.get(f"{ANDROID}usesCleartextTraffic") == "false"
    assert f"{ANDROID}networkSecurityConfig" not in application.attrib
    permitted = [
        (path.relative_to(SOURCES).parts[0], domain.text)
        for path in SOURCES.rglob("*.xml")
        for config in ElementTree.parse(path).getroot().iter()
        if config.get("cleartextTrafficPermitted") == "true"
        for domain in config.iter("domain")
    ]
    assert permitted == [("emulator", "10.0.2.2")]


def test_backups_leave_the_licenses_out() -> None:
    application = xml("main/AndroidManifest.xml").find("application")
    assert application is not None
    assert application.get(f"{ANDROID}dataExtractionRules") == "@xml/data_extraction_rules"
    assert application.get(f"{ANDROID}fullBackupContent") == "@xml/backup_rules"
    places = [xml("main/res/xml/backup_rules.xml"), *xml("main/res/xml/data_extraction_rules.xml")]
    assert [place.tag for place in places] == ["full-backup-content", "cloud-backup", "device-transfer"]
    for place in places:
        assert [rule.attrib for rule in place] == [{"domain": "root", "path": "no_backup/"}]


def test_the_app_asks_for_the_network_and_nothing_else() -> None:
    asked = [
        element.get(f"{ANDROID}name")
        for manifest in SOURCES.rglob("AndroidManifest.xml")
        for element in ElementTree.parse(manifest).getroot().iter("uses-permission")
    ]
    assert asked == ["android.permission.INTERNET"]


def test_kotlin_files_are_short() -> None:
    long = {path.name for path in DEMO.rglob("*.kt") if len(path.read_text().splitlines()) > 450}
    assert not long


def test_sample_images_are_labelled_and_have_their_licence(tmp_path: Path) -> None:
    assert assets("images", "--out", tmp_path).returncode == 0
    images, labels = (tmp_path / "images.idx").read_bytes(), (tmp_path / "labels.idx").read_bytes()
    assert struct.unpack(">4I", images[:16]) == (0x803, 200, 28, 28)
    assert struct.unpack(">2I", labels[:8]) == (0x801, 200)
    found = np.frombuffer(labels[8:], np.uint8)
    assert list(found[:10]) == list(range(10))
    assert set(np.bincount(found)) == {20}
    with np.load(ROOT / "tools/demo_model/data/fashion_test_2000.npz") as data:
        known = {(image.tobytes(), int(label)) for image, label in zip(data["x"], data["y"], strict=True)}
    assert all((images[16 + 784 * i : 800 + 784 * i], int(found[i])) in known for i in range(200))
    assert "MIT" in (tmp_path / "LICENSE.fashion-mnist").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["production", "--model", "nowhere"], "corelocker.serviceConfig=service.toml"),
        (["development"], "--model is missing"),
        (["model", "--model", "nowhere", "--state"], "expected one argument"),
    ],
)
def test_the_pipeline_says_what_it_lacks(tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = assets(*arguments, "--out", tmp_path)
    assert ended.returncode == 2
    assert message in ended.stderr
