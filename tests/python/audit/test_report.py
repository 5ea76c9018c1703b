"""The report: what it says, that it needs nothing else, and that a browser renders it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corelocker.audit.report import html, number, plain, size, verdict
from corelocker.audit.results import AttackResult

METRIC = {"name": "top-1", "higher_is_better": True, "proportion": True, "chance": 0.1}


def attack(
    name: str = "fine-tune", recovered: float = 0.5, baseline: float | None = 0.48, **rest: Any
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": name, "title": f"Attack <{name}> & co", "tier": "free", "metric": "top-1", "budget": {"samples": 500},
        "locked": 0.1, "recovered": recovered, "original": 0.9, "baseline": baseline, "baseline_name": "from scratch",
    }  # fmt: skip
    return AttackResult(**(values | rest)).to_json()


def document(**changes: Any) -> dict[str, Any]:
    """An audit with everything that a page can show; values are made up, shapes are not."""

    def utility(value: float) -> dict[str, float]:
        return {"value": value, "low": max(0.0, value - 0.02), "high": min(1.0, value + 0.02)}

    tiers = [
        {"name": n, "removed": r, "locked_bytes": b, "locked_fraction": b / 1e6, "patch_bytes": p, "utility": utility(v)}
        for n, r, b, p, v in (("free", 0.05, 48_272, 0, 0.104), ("plus", 0.01, 10_652, 37_620, 0.8), ("full", 0.0, 0, 10_652, 0.9))
    ]  # fmt: skip
    curve = [
        {
            "series": s,
            "removed": r,
            "locked_bytes": int(1e6 * r),
            "locked_fraction": r,
            "utility": utility(v),
            "repeats": n,
        }
        for s, n, values in (("l1", 1, (0.89, 0.8, 0.2, 0.1)), ("random", 3, (0.9, 0.88, 0.7, 0.3)))
        for r, v in zip((0.005, 0.01, 0.05, 0.1), values, strict=True)
    ]
    layers = [
        {"name": f"block.{i}.conv.weight", "role": "conv", "shape": [40 + i, 8, 3, 3],
         "tier_of": (np.arange(40 + i) % (7 + i) == 0).astype(int).tolist()}
        for i in range(12)
    ]  # fmt: skip
    bound = {"name": "x", "upper": 1e3, "measured": 5.0, "measured_mean": 3.0, "norm": 10.0, "g": 2.0}
    found = {
        "format": "corelocker-audit", "version": 1,
        "model": {"name": "net<1>.pte", "format": "executorch", "sha256": "ab", "weight_bytes": 1_049_128,
                  "channels": 4594, "layers": 12},
        "data": {"name": "set.npz", "samples": 1000, "sha256": "cd", "attacker": "other samples"},
        "metric": METRIC, "lock": {"criterion": "l1", "fill": "decoy", "tiers": "free=0.05"}, "seed": 3, "quick": True,
        "runtime": "ExecuTorch", "versions": {"corelocker": "0", "torch": "2"},
        "original": utility(0.9), "bit_exact": True, "tiers": tiers, "curve": curve, "curve_samples": 1000, "layers": layers,
        "attacks": [attack(), attack("location-l1", 0.61, 0.5, metric="auc", title="Finding locked channels by l1")],
        "bounds": {
            "layers": [bound | {"name": f"layer{i}", "upper": 10.0 ** (i + 1)} for i in range(6)] + [bound | {"upper": None}],
            "radius": 12.0, "inputs": 64, "reason": "", "theorems": {"constants": {"C_e": 1.0}, "layers": []},
        },
        "notes": ["a note"],
    } | changes  # fmt: skip
    found["verdict"] = verdict(found)
    return found


# --- the verdict -----------------------------------------------------------------------------------------------------


def level(**changes: Any) -> str:
    return str(document(**changes)["verdict"]["level"])


def test_verdicts() -> None:
    assert level() == "holds"
    assert level(attacks=[attack(recovered=0.6)]) == "partly"
    assert level(attacks=[]) == "open"
    assert level(bit_exact=False) == "weak"
    useful = document()["tiers"]
    useful[0]["utility"]["value"] = 0.7
    assert level(tiers=useful) == "weak"
    half = document()["tiers"]
    half[0]["utility"]["value"] = 0.3
    assert level(tiers=half) == "partly"


def actions(**changes: Any) -> list[str]:
    return [step["action"] for step in document(quick=False, **changes)["verdict"]["next_steps"]]


def test_each_verdict_says_what_to_do_next() -> None:
    assert actions() == ["ship"]
    assert actions(attacks=[]) == ["measure"]
    assert actions(bit_exact=False) == ["report-a-bug"]
    assert actions(attacks=[attack(recovered=0.6)]) == ["lock-more"]
    assert actions(attacks=[attack(recovered=0.8)]) == ["lock-more", "serve-a-part"]
    hardened = {"criterion": "l1", "fill": "decoy", "tiers": "free=1", "preset": "hardened"}
    assert actions(attacks=[attack(recovered=0.6)], lock=hardened) == ["accept", "serve-a-part"]
    half = hardened | {"tiers": "free=0.5", "preset": "balanced", "unit": "sign"}
    assert actions(attacks=[attack(recovered=0.6)], lock=half) == ["lock-more"], "there is a stronger lock"
    assert [s["action"] for s in document()["verdict"]["next_steps"]] == ["ship", "measure"]


def test_the_headline_is_the_share_of_the_gap_that_a_tenth_of_the_data_regains() -> None:
    tenth = attack("tenth", 0.6, 0.5, budget={"samples": 500, "data": 0.1})
    everything = attack("all", 0.8, 0.6, budget={"samples": 5000, "data": 1.0})
    found = document(attacks=[everything, tenth])["verdict"]
    assert found["regained"] == pytest.approx(0.25)
    assert "25 % of the gap" in " ".join(found["sentences"])
    assert document(attacks=[attack(recovered=0.3)])["verdict"]["regained"] < 0
    assert "0 % of the gap" in " ".join(document(attacks=[attack(recovered=0.3)])["verdict"]["sentences"])


def test_an_attack_without_labels_that_opens_the_lock_is_worst() -> None:
    free = attack("bn", 0.8, 0.78, budget={"samples": 50, "labels": 0.0}, title="Statistics anew")
    found = document(attacks=[attack(), free])["verdict"]
    assert found["level"] == "weak"
    assert "statistics anew" in " ".join(found["sentences"])
    assert "70.0 points" in " ".join(found["sentences"])


def test_the_strongest_attack_is_the_one_with_the_largest_leak() -> None:
    rich = attack("rich", 0.89, 0.88, title="All the data")
    found = document(attacks=[rich, attack("poor", 0.5, 0.42, title="Little data")])["verdict"]
    assert found["level"] == "partly"
    assert any("little data" in s and "8.0 points" in s for s in found["sentences"])


def test_perplexity_is_judged_in_nats() -> None:
    metric = {"name": "perplexity", "higher_is_better": False, "proportion": False, "chance": 1000.0}

    def shipped(value: float) -> str:
        tiers = document()["tiers"]
        for tier, v in zip(tiers, (value, 30.0, 20.0), strict=True):
            tier["utility"] = {"value": v, "low": v * 0.9, "high": v * 1.1}
        gained = attack(
            recovered=900.0, baseline=890.0, metric="perplexity", higher_is_better=False, locked=value, original=20.0
        )
        found = document(
            metric=metric, original={"value": 20.0, "low": 18.0, "high": 22.0}, tiers=tiers, attacks=[gained]
        )
        assert "%" not in found["verdict"]["sentences"][0]
        html(found)
        return str(found["verdict"]["level"])

    assert shipped(950.0) == "holds"
    assert shipped(40.0) == "weak"


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_holds_its_data() -> None:
    found = document()
    page = html(found)
    assert page == html(json.loads(json.dumps(plain(found))))
    assert "default-src 'none'" in page
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert links
    assert all(link.startswith(("data:application/json;base64,", "data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page
    assert "@import" not in page
    outside = re.findall(r"https?://[^\s\"'<>]+", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))
    assert outside == []
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    downloads = dict(re.findall(r'download="(\w+)\.json" href="data:application/json;base64,([^"]*)"', page))
    assert set(downloads) == {"tiers", "audit", "curve", "attacks", "location", "layers", "bounds"}
    assert json.loads(base64.b64decode(downloads["audit"])) == plain(found)
    assert json.loads(base64.b64decode(downloads["curve"])) == plain(found["curve"])


def test_tiers_say_how_far_they_agree_with_the_original() -> None:
    found = document(agreement={"inputs": "noise", "samples": 512, "not_measured": None})
    for tier, value in zip(found["tiers"], (0.123, 0.456, 1.0), strict=True):
        tier["agreement"] = {"kind": "classes", "value": value, "chance": 0.234, "error": 0.01}
    page = html(found)
    for words in ("12.3 %", "45.6 %", "100.0 %", "23.4 %", "Measured on 512 noise"):
        assert words in page
    missing = document(agreement={"inputs": "", "samples": 0, "not_measured": "no phone"})
    for tier in missing["tiers"]:
        tier["agreement"] = None
    assert "Agreement was not measured: no phone." in html(missing)


def test_names_from_outside_are_escaped() -> None:
    page = html(document())
    assert "net&lt;1&gt;.pte" in page
    assert "net<1>" not in page
    assert "Attack <fine" not in page


def test_parts_that_were_not_measured_are_left_out() -> None:
    page = html(document(attacks=[], curve=[], layers=[], bounds=None))
    assert "What an attacker gets back" not in page
    assert "NOT ATTACKED" in page


def test_what_the_file_says_about_its_training_data() -> None:
    details = {"standard_error_of_a_blind_guess": 0.02}
    for area, words in ((0.51, "no more than a blind guess"), (0.7, "do not ship it")):
        page = html(document(attacks=[attack("membership", area, 0.5, metric="auc", details=details)]))
        assert words in page
        assert "Can locked channels be found?" not in page


def test_json_has_no_infinities() -> None:
    assert plain({"a": float("inf"), "b": [np.float64(1.5), np.int64(2)], "c": np.arange(2)}) == {
        "a": None, "b": [1.5, 2], "c": [0, 1],
    }  # fmt: skip


def test_numbers_as_people_read_them() -> None:
    assert [size(n) for n in (12, 48_272, 999_600, 1_234_567)] == ["12 bytes", "48.3 kB", "1 MB", "1.23 MB"]
    assert number(0.1234, METRIC) == "12.3 %"
    assert number(None, METRIC) == "—"


def test_share_of_the_gap_regained() -> None:
    def regained(**values: Any) -> float | None:
        share: float | None = attack(**values)["regained"]
        return share

    assert regained(recovered=0.69, baseline=0.48) == pytest.approx(0.5)
    assert regained(recovered=0.5, baseline=None) == pytest.approx(0.5)  # from the locked model
    assert regained(recovered=0.5, baseline=0.4, budget={"samples": 9, "labels": 0}) == pytest.approx(0.5)
    assert regained(recovered=0.89, baseline=0.86) is None, "training from scratch gets nearly there"
    assert regained(name="auc", metric="auc") is None
    nats = {"metric": "perplexity", "higher_is_better": False, "original": 10.0, "locked": 1e4}
    assert regained(recovered=100.0, baseline=1000.0, **nats) == pytest.approx(0.5)
    losses = {"metric": "a:loss", "higher_is_better": False, "original": 1.0, "locked": 9.0}
    assert regained(recovered=2.0, baseline=3.0, **losses) == pytest.approx(0.5)


def test_results_survive_json() -> None:
    found = attack()
    again = AttackResult.from_json(json.loads(json.dumps(found)))
    assert again.to_json() == found
    assert found["gained"] == pytest.approx(0.4)
    assert found["leaked"] == pytest.approx(0.02)
    worse = AttackResult.from_json(
        found | {"higher_is_better": False, "locked": 90.0, "recovered": 30.0, "baseline": 40.0}
    )
    assert (worse.gained, worse.leaked) == (60.0, 10.0)


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here (Debian package chromium)")
    return found


def shoot(chromium: str, page: Path, width: int, height: int, *options: str) -> np.ndarray[Any, Any]:
    """The page as a browser without any network draws it, float (height, width, 4)."""
    from matplotlib.image import imread

    picture = page.with_suffix(".png")
    subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}",
         f"--window-size={width},{height}", f"--screenshot={picture}", *options, page.as_uri()],
        check=True, capture_output=True, timeout=90,
    )  # fmt: skip
    return np.asarray(imread(picture))


def test_chromium_renders_the_first_screen(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(html(document()))
    first = shoot(chromium, page, 1280, 900)
    assert first.shape[:2] == (900, 1280)
    # The verdict's colored edge, the tiles below it, and the tiers with their bars are on the first screen.
    green = (np.abs(first[..., :3] - np.array([0x00, 0x79, 0x5A]) / 255) < 0.02).all(axis=2)
    blue = (np.abs(first[..., :3] - np.array([0x00, 0x72, 0xB2]) / 255) < 0.02).all(axis=2)
    assert green[:400].sum() > 500
    bars = np.flatnonzero(blue.sum(axis=1) > 60)  # rows of pixels with a utility bar
    assert bars.size
    assert bars.min() < 700
    ink = (first[..., :3] < 0.5).all(axis=2)
    assert 0.005 < ink.mean() < 0.2


def test_chromium_draws_every_figure(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(html(document()))
    whole = shoot(chromium, page, 1000, 4200)
    for color in ("#0072B2", "#E69F00", "#009E73", "#D55E00"):
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(whole[..., :3] - rgb) < 0.03).all(axis=2).sum() > 50, color
    # Nothing runs over the right edge: the last columns are white.
    assert (whole[:, -12:, :3] > 0.97).all()


def test_chromium_fits_the_page_on_a_phone(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(html(document()))
    frame = tmp_path / "frame.html"  # the browser's own window is never narrower than 500 pixels
    frame.write_text('<body style="margin:0"><iframe src="report.html" style="border:0;width:400px;height:2400px">')
    narrow = shoot(chromium, frame, 600, 2400)[:, :400, :3]
    assert (narrow[:, -12:] > 0.97).all(), "something runs over the right edge"
    assert (narrow < 0.5).all(axis=2).mean() > 0.01


def test_chromium_draws_the_page_in_the_dark(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(html(document()))
    dark = shoot(chromium, page, 1000, 3000, "--blink-settings=preferredColorScheme=0")[..., :3]
    assert (dark < 0.3).all(axis=2).mean() > 0.85
    assert (dark > 0.7).all(axis=2).mean() > 0.005, "text can be read"


def test_chromium_prints_the_page(chromium: str, tmp_path: Path) -> None:
    page, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    page.write_text(html(document()))
    shoot(chromium, page, 1000, 800, f"--print-to-pdf={printed}")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))
    assert 2 <= pages <= 8
