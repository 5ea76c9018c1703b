"""The checks of the iOS demo's project find what they are for: each test breaks a copy of it in one place."""

import json
import plistlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.apple_strings import specifiers, used_keys
from tools.check_apple_project import findings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("Package.swift", "sdk/apple/ExecuTorch/Package.swift")
PRIVACY = "sdk/apple/CoreLocker/PrivacyInfo.xcprivacy"
INPUTS = ("app_assets.py", "fashion_mobilenet.py", "data/fashion_mobilenet.safetensors", "data/fashion_test_2000.npz")


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    for name in (*PACKAGES, PRIVACY, *(f"tools/demo_model/{name}" for name in INPUTS)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    copy = tmp_path / "ios_demo"
    shutil.copytree(ROOT / "ios_demo", copy, ignore=shutil.ignore_patterns(".local", ".build", "*.xcodeproj"))
    return copy


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document), "utf-8")


def edit_plist(path: Path, change: Callable[[dict], object]) -> None:
    document = plistlib.loads(path.read_bytes())
    change(document)
    path.write_bytes(plistlib.dumps(document))


def test_the_demo_fits(demo: Path) -> None:
    assert findings(demo) == []


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("- path: Resources\n", "- path: Resource\n", "Resource is missing"),
        ("path: ../sdk/apple/ExecuTorch", "path: ../sdk/apple/Missing", "Package.swift is missing"),
        ("product: CoreLockerCoreML", "product: CoreLockerML", "has no product CoreLockerML"),
        ("package: DemoCore\n", "package: Core\n", "there is no package Core"),
        ("- target: FashionDemo\n", "- target: Demo\n", "there is no target Demo"),
        ("        - FashionDemoUITests\n", "        - UITests\n", "there is no target UITests"),
        ("DemoCore/DemoCoreTests", "DemoCore/CoreTests", "there are no tests DemoCore/CoreTests"),
        ("SWIFT_VERSION:", "SWIFT_VERSON:", "no build setting SWIFT_VERSON"),
        (
            "INFOPLIST_KEY_UILaunchScreen_Generation",
            "INFOPLIST_KEY_UILaunch",
            "no build setting INFOPLIST_KEY_UILaunch",
        ),
        ("$(SRCROOT)/products.json", "$(SRCROOT)/product.json", "product.json is missing"),
        ("$(SRCROOT)/../.venv", "$(SOURCE)/../.venv", "nothing sets SOURCE"),
        ("path: Scripts/build-resources.sh", "path: Scripts/resources.py", "cannot be executed"),
        (
            "storeKitConfiguration: Products.storekit",
            "storeKitConfiguration: Store.storekit",
            "Store.storekit is missing",
        ),
        (
            "INFOPLIST_FILE: Config/Debug-Info.plist",
            "INFOPLIST_FILE: Config/Info.plist",
            "Config/Info.plist is missing",
        ),
        ("APP_ATTEST_ENVIRONMENT: production", "APP_ATTEST_ENVIRONMENT: development", "environment of Release"),
        ("APPICON_NAME: AppIcon", "APPICON_NAME: Icon", "has no Icon.appiconset"),
        ("product: backend_xnnpack", "product: backend_mps", "does not link ExecuTorch's product backend_xnnpack"),
        ("product: kernels_optimized", "product: kernels_quantized", "product kernels_optimized"),
        ("branch: swiftpm-1.5.1", "branch: swiftpm-1.5.0", "CoreLockerExecuTorch takes"),
        ("$(inherited) -all_load", "$(inherited) -ObjC", "without -all_load"),
        ("postCompileScripts:", "postCompileScript:", "XcodeGen knows no postCompileScript"),
        ("buildPhase: resources", "buildphase: resources", "XcodeGen knows no buildphase"),
        ("storeKitConfiguration: Products", "storeKitConfig: Products", "XcodeGen knows no storeKitConfig"),
        ("branch: swiftpm", "exactBranch: swiftpm", "XcodeGen knows no exactBranch"),
        ("CFBundleDisplayName: Garments", "CFBundleDisplayName: Clothes", "InfoPlist.xcstrings"),
    ],
)
def test_project(demo: Path, old: str, new: str, finding: str) -> None:
    replace(demo / "project.yml", old, new)
    assert any(finding in found for found in findings(demo)), findings(demo)


def test_transport_security(demo: Path) -> None:
    plist = demo / "Config/Debug-Info.plist"
    edit_plist(plist, lambda own: own.update(NSAppTransportSecurity={"NSAllowsArbitraryLoads": True}))
    assert any("App Transport Security" in found for found in findings(demo))
    replace(
        demo / "project.yml",
        "        Release:\n",
        "        Release:\n          INFOPLIST_FILE: Config/Debug-Info.plist\n",
    )
    assert any("Release has App Transport Security" in found for found in findings(demo))


def test_entitlements_and_privacy(demo: Path) -> None:
    edit_plist(demo / "Config/FashionDemo.entitlements", lambda own: own.update({"com.apple.developer.icloud": True}))
    edit_plist(demo / "Resources/PrivacyInfo.xcprivacy", lambda own: own.update(NSPrivacyTracking="no"))
    found = findings(demo)
    assert any("entitlements" in line for line in found)
    assert any("NSPrivacyTracking is no bool" in line for line in found)


def test_the_packages_privacy_manifest(demo: Path) -> None:
    manifest = demo.parent / PRIVACY
    text = manifest.read_bytes()
    manifest.unlink()
    assert any("CoreLocker has none" in line for line in findings(demo))
    manifest.write_bytes(text)
    edit_plist(manifest, lambda own: own.pop("NSPrivacyTracking"))
    edit_plist(manifest, lambda own: own["NSPrivacyAccessedAPITypes"][0].update(NSPrivacyAccessedAPITypeReasons=[]))
    found = findings(demo)
    assert any("the keys are" in line for line in found)
    assert any("has no reasons" in line for line in found)


def test_store(demo: Path) -> None:
    def change(store: dict) -> None:
        store["products"][0]["productID"] = "com.example.fashion.other"
        store["products"][0]["displayPrice"] = "free"
        store["products"][1]["type"] = "RecurringSubscription"
        store["products"][1]["internalID"] = store["products"][0]["internalID"]
        store["subscriptionGroups"][0]["subscriptions"][0]["subscriptionGroupID"] = "other"
        store["subscriptionGroups"][0]["subscriptions"][0]["localizations"].pop()

    edit_json(demo / "Products.storekit", change)
    text = "\n".join(findings(demo))
    for finding in (
        "products are",
        "costs free",
        "is a RecurringSubscription",
        "one internalID",
        "not its own",
        "no words in de",
    ):
        assert finding in text


def test_products_are_the_locks_tiers(demo: Path) -> None:
    replace(demo / "corelocker.toml", "plus=0.01", "pro=0.01")
    assert any("the lock has pro, full" in found for found in findings(demo))


def test_icon(demo: Path) -> None:
    icon = demo / "Resources/Assets.xcassets/AppIcon.appiconset/AppIcon.png"
    from PIL import Image

    Image.new("RGBA", (512, 512)).save(icon)
    assert any("RGBA of 512x512" in found for found in findings(demo))
    icon.unlink()
    assert any("AppIcon.png is missing" in found for found in findings(demo))


def test_strings(demo: Path) -> None:
    def change(catalog: dict) -> None:
        strings = catalog["strings"]
        del strings["Locked"]
        del strings["Close"]["localizations"]["de"]
        strings["%@ ms"]["localizations"]["de"]["stringUnit"]["value"] = "%lld ms"
        strings["Measure"]["localizations"]["en"]["stringUnit"]["state"] = "new"
        strings["Unused"] = strings["Cancel"]
        plural = strings["On %lld bundled pictures, one after the other."]["localizations"]["de"]["variations"][
            "plural"
        ]
        del plural["other"]

    edit_json(demo / "Resources/Localizable.xcstrings", change)
    found = findings(demo)
    for expected in (
        "no 'Locked'", "'Close' is not translated to de", "other format specifiers", "'Measure' is not translated to en",
        "nothing uses 'Unused'", "one after the other.' is not translated to de",
    ):  # fmt: skip
        assert any(expected in line for line in found), expected


def test_interpolated_keys_are_refused(demo: Path) -> None:
    view = demo / "App/Views/PaywallView.swift"
    replace(view, 'Button("Close")', r'Button("Close \(1)")')
    assert any("interpolation" in found for found in findings(demo))


def test_conditional_keys_are_refused(demo: Path) -> None:
    replace(demo / "App/Views/PaywallView.swift", 'Button("Close")', 'Button(paywall.isBusy ? "Close" : "Cancel")')
    assert any("depends on a condition" in found for found in findings(demo))


def test_localized_plist(demo: Path) -> None:
    edit_json(demo / "Resources/InfoPlist.xcstrings", lambda own: own["strings"].pop("NSLocalNetworkUsageDescription"))
    assert any("InfoPlist.xcstrings" in found for found in findings(demo))


def test_keys_and_specifiers() -> None:
    source = 'Text("one")\n// Text("no")\nMessage(\n    "t%@o \\"x\\"", .text(a))\nText(verbatim: "no")\n.navigationTitle("three")'
    assert used_keys(source) == ["one", 't%@o "x"', "three"]
    assert specifiers("%@ of %lld, 5 %%") == [(1, "@"), (2, "lld")]
    assert specifiers("%2$@ %1$@") == specifiers("%@ %@")
