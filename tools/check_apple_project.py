"""Checks what Xcode would only find out when it builds: the files of an iOS app beside its sources.

python -m tools.check_apple_project [FOLDER]

FOLDER holds project.yml (XcodeGen) and all that it names; by default it is ios_demo. Looked at are the project, Info.plist files,
entitlements, the privacy manifest, the StoreKit configuration against products.json and corelocker.toml, the asset catalog and
the string catalogs against the sources. Prints what is wrong; the status is then 1.
"""

from __future__ import annotations

import json
import plistlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.apple_strings import check_strings

ROOT = Path(__file__).resolve().parents[1]

# Xcode's build settings (Apple, "Build settings reference") that a project of ours may set.
BUILD_SETTINGS = {
    "ASSETCATALOG_COMPILER_APPICON_NAME", "ASSETCATALOG_COMPILER_GLOBAL_ACCENT_COLOR_NAME", "CODE_SIGN_ENTITLEMENTS",
    "CODE_SIGN_IDENTITY", "CODE_SIGN_STYLE", "CURRENT_PROJECT_VERSION", "DEVELOPMENT_TEAM", "ENABLE_USER_SCRIPT_SANDBOXING",
    "GENERATE_INFOPLIST_FILE", "INFOPLIST_FILE", "LOCALIZATION_PREFERS_STRING_CATALOGS", "MARKETING_VERSION", "OTHER_LDFLAGS",
    "PRODUCT_BUNDLE_IDENTIFIER", "PRODUCT_NAME", "SWIFT_VERSION", "TARGETED_DEVICE_FAMILY",
}  # fmt: skip
GENERATED_PLIST_KEYS = {
    "CFBundleDisplayName", "LSApplicationCategoryType", "UIApplicationSceneManifest_Generation", "UILaunchScreen_Generation",
    "UISupportedInterfaceOrientations", "UISupportedInterfaceOrientations_iPad",
}  # fmt: skip
# XcodeGen's (its "Project Spec") that a project of ours may have. It passes over others without a word.
XCODEGEN_KEYS = {
    "project": {"name", "options", "configs", "fileGroups", "packages", "settings", "targets", "schemes"},
    "package": {"path", "url", "branch"},
    "target": {"type", "platform", "sources", "dependencies", "settings", "postCompileScripts"},
    "source": {"path", "buildPhase"},
    "dependency": {"target", "package", "product"},
    "script": {"name", "path", "inputFiles", "outputFiles"},
    "settings": {"base", "configs"},
    "scheme": {"build", "run", "test", "archive"},
    "action": {"targets", "config", "storeKitConfiguration"},
}
# Set by Xcode while it builds.
XCODE_VARIABLES = {"SRCROOT", "TARGET_BUILD_DIR", "UNLOCALIZED_RESOURCES_FOLDER_PATH", "CONFIGURATION", "inherited"}
# Ours begin so, or stand in the entitlements.
OWN_SETTINGS = re.compile(r"CORELOCKER_[A-Z_]+|APP_ATTEST_ENVIRONMENT")
TARGET_TYPES = {"application", "bundle.unit-test", "bundle.ui-testing"}
PRODUCT_TYPES = {"products": {"Consumable", "NonConsumable"}, "subscriptions": {"RecurringSubscription"}}
ENTITLEMENTS = {"com.apple.developer.devicecheck.appattest-environment"}
ATTEST_ENVIRONMENTS = {"Debug": "development", "Release": "production"}
PRIVACY_KEYS = {
    "NSPrivacyTracking": bool, "NSPrivacyTrackingDomains": list, "NSPrivacyCollectedDataTypes": list,
    "NSPrivacyAccessedAPITypes": list,
}  # fmt: skip
EXECUTORCH = "https://github.com/pytorch/executorch.git"
# ExecuTorch's product for each backend of `corelocker export`.
BACKEND_PRODUCTS = {"portable": None, "xnnpack": "backend_xnnpack"}
LANGUAGES = ("en", "de")
STORE_LOCALES = ("en_US", "de")


def _subset(settings: dict[str, Any]) -> Iterator[tuple[str, str | None, Any]]:
    """Name, configuration (None for all) and value of each build setting of a target or the project."""
    for name, value in settings.get("base", {}).items():
        yield name, None, value
    for configuration, own in settings.get("configs", {}).items():
        for name, value in own.items():
            yield name, configuration, value


class Project:
    """project.yml, and what is wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: dict[str, Any] = yaml.safe_load((folder / "project.yml").read_text("utf-8"))
        self.targets: dict[str, dict[str, Any]] = self.spec["targets"]
        self.settings = [
            setting for owner in (self.spec, *self.targets.values()) for setting in _subset(owner.get("settings", {}))
        ]

    def unknown_keys(self) -> Iterator[str]:
        """Keys of project.yml that XcodeGen would pass over without a word."""
        yield from self._unknown(self.spec, "project", "the project")
        for name, package in self.spec["packages"].items():
            yield from self._unknown(package, "package", f"package {name}")
        for name, target in self.targets.items():
            yield from self._unknown(target, "target", name)
            for kind, parts in (
                ("source", target["sources"]), ("dependency", target.get("dependencies", [])),
                ("script", target.get("postCompileScripts", [])), ("settings", [target.get("settings", {})]),
            ):  # fmt: skip
                for part in parts:
                    if isinstance(part, dict):
                        yield from self._unknown(part, kind, f"{name}: a {kind}")
        for name, scheme in self.spec["schemes"].items():
            yield from self._unknown(scheme, "scheme", f"scheme {name}")
            for action in scheme.keys() & XCODEGEN_KEYS["scheme"]:
                yield from self._unknown(scheme[action], "action", f"scheme {name}: {action}")

    def check(self) -> Iterator[str]:
        for group in self.spec.get("fileGroups", []):
            yield from self._missing(group, "fileGroups")
        for name, package in self.spec["packages"].items():
            if "path" in package:
                yield from self._missing(f"{package['path']}/Package.swift", f"package {name}")
        for name, target in self.targets.items():
            yield from self._check_target(name, target)
        yield from self._check_settings()
        for name, scheme in self.spec["schemes"].items():
            yield from self._check_scheme(name, scheme)

    @staticmethod
    def _unknown(part: dict[str, Any], kind: str, what: str) -> Iterator[str]:
        for key in part.keys() - XCODEGEN_KEYS[kind]:
            yield f"project.yml: {what}: XcodeGen knows no {key} here, or this check does not"

    def _missing(self, path: str, what: str) -> Iterator[str]:
        if not (self.folder / path).exists():
            yield f"project.yml: {what}: {path} is missing"

    def _check_target(self, name: str, target: dict[str, Any]) -> Iterator[str]:
        if target["type"] not in TARGET_TYPES or target["platform"] != "iOS":
            yield f"project.yml: {name} has a type or platform that this check does not know"
        for source in target["sources"]:
            yield from self._missing(source if isinstance(source, str) else source["path"], name)
        for dependency in target.get("dependencies", []):
            if "target" in dependency and dependency["target"] not in self.targets:
                yield f"project.yml: {name}: there is no target {dependency['target']}"
            if "package" in dependency:
                yield from self._check_product(name, dependency["package"], dependency["product"])
        for script in target.get("postCompileScripts", []):
            yield from self._check_script(name, script)

    def _check_product(self, name: str, package: str, product: str) -> Iterator[str]:
        declared = self.spec["packages"].get(package)
        if declared is None:
            yield f"project.yml: {name}: there is no package {package}"
            return
        if "path" not in declared:  # of another repository
            return
        manifest = self.folder / declared["path"] / "Package.swift"
        if manifest.exists() and f'.library(name: "{product}"' not in manifest.read_text("utf-8"):
            yield f"project.yml: {name}: package {package} has no product {product}"

    def _check_script(self, name: str, script: dict[str, Any]) -> Iterator[str]:
        path = self.folder / script["path"]
        yield from self._missing(script["path"], f"{name}: a build phase")
        if path.exists() and not path.stat().st_mode & 0o100:
            yield f"project.yml: {name}: {script['path']} cannot be executed"
        if not script.get("inputFiles") or not script.get("outputFiles"):
            yield f"project.yml: {name}: the build phase {script['name']} names no inputs or outputs"
        for file in script.get("inputFiles", []):
            yield from self._missing(file.replace("$(SRCROOT)", "."), f"{name}: an input of {script['name']}")

    def _check_settings(self) -> Iterator[str]:
        known = {name for name, _, _ in self.settings} | XCODE_VARIABLES
        for setting, _, value in self.settings:
            name = re.sub(r"\[sdk=\w+\*\]$", "", setting)
            key = name.removeprefix("INFOPLIST_KEY_")
            fine = (
                key in GENERATED_PLIST_KEYS if key != name else name in BUILD_SETTINGS or OWN_SETTINGS.fullmatch(name)
            )
            if not fine:
                yield f"project.yml: Xcode has no build setting {name}"
            if name in ("INFOPLIST_FILE", "CODE_SIGN_ENTITLEMENTS"):
                yield from self._missing(value, name)
            for variable in re.findall(r"\$\((\w+)\)", str(value)):
                if variable not in known:
                    yield f"project.yml: {name}: nothing sets {variable}"

    def _check_scheme(self, name: str, scheme: dict[str, Any]) -> Iterator[str]:
        named = [*scheme["build"]["targets"], *(t for t in scheme["test"]["targets"] if isinstance(t, str))]
        for target in named:
            if target not in self.targets:
                yield f"project.yml: scheme {name}: there is no target {target}"
        for test in scheme["test"]["targets"]:
            if isinstance(test, dict):
                package, _, target = test["package"].partition("/")
                manifest = self.folder / self.spec["packages"].get(package, {}).get("path", "missing") / "Package.swift"
                if not manifest.exists() or f'.testTarget(name: "{target}"' not in manifest.read_text("utf-8"):
                    yield f"project.yml: scheme {name}: there are no tests {test['package']}"
        yield from self._missing(scheme["run"]["storeKitConfiguration"], f"scheme {name}")

    def setting(self, wanted: str, configuration: str) -> Any:
        """The value of a setting in a configuration; None where nothing sets it."""
        values = [value for name, own, value in self.settings if name == wanted and own in (None, configuration)]
        return values[-1] if values else None


def check_executorch(project: Project) -> Iterator[str]:
    """The app links the kernels and the backend that its program needs, from the branch that CoreLockerExecuTorch takes."""
    packages: dict[str, dict[str, Any]] = project.spec["packages"]
    ours = (project.folder / packages["CoreLockerExecuTorch"]["path"] / "Package.swift").read_text("utf-8")
    branch = re.search(r'^let executorch = "([^"]+)"$', ours, re.MULTILINE)
    own = packages.get("executorch", {})
    wanted = {"url": EXECUTORCH, "branch": branch[1] if branch else None}
    if own != wanted:
        yield f"project.yml: the package executorch is {own}; CoreLockerExecuTorch takes {wanted}"
    exports = tomllib.loads((project.folder / "corelocker.toml").read_text("utf-8"))["target"]
    programs = [export for export in exports if export["format"] == "executorch"]
    backends = {BACKEND_PRODUCTS[export.get("backend", "xnnpack")] for export in programs}
    for name, target in project.targets.items():
        products = {dependency.get("product") for dependency in target.get("dependencies", [])}
        if "CoreLockerExecuTorch" not in products:
            continue
        for product in sorted({"kernels_optimized", *filter(None, backends)} - products):
            yield f"project.yml: {name} does not link ExecuTorch's product {product}"
        if "-all_load" not in str(project.setting("OTHER_LDFLAGS", "Release")):
            yield "project.yml: without -all_load the linker drops ExecuTorch's kernels and backends"


def check_plists(project: Project) -> Iterator[str]:
    """Clear text is for services on this network, in development; App Attest's environment fits the configuration."""
    for configuration in project.spec["configs"]:
        path = project.setting("INFOPLIST_FILE", configuration)
        plist = plistlib.loads((project.folder / path).read_bytes()) if path else {}
        transport = plist.get("NSAppTransportSecurity", {})
        allowed = {"NSAllowsLocalNetworking": True} if configuration == "Debug" else {}
        if transport != allowed:
            yield f"{path or 'Info.plist'}: {configuration} has App Transport Security {transport}, not {allowed}"
        environment = project.setting("APP_ATTEST_ENVIRONMENT", configuration)
        if environment != ATTEST_ENVIRONMENTS[configuration]:
            yield f"project.yml: App Attest's environment of {configuration} is {environment}"
        path = project.setting("CODE_SIGN_ENTITLEMENTS", configuration)
        entitlements = plistlib.loads((project.folder / path).read_bytes())
        if set(entitlements) != ENTITLEMENTS or set(entitlements.values()) != {"$(APP_ATTEST_ENVIRONMENT)"}:
            yield f"{path}: other entitlements than App Attest's"


def check_privacy(project: Project) -> Iterator[str]:
    """The app's privacy manifest, and that of the package's core."""
    core = (
        project.folder / project.spec["packages"]["CoreLocker"]["path"] / "sdk/apple/CoreLocker/PrivacyInfo.xcprivacy"
    )
    for file in (*project.folder.glob("Resources/PrivacyInfo.xcprivacy"), core):
        if file.exists():
            yield from _check_privacy_manifest(file)
        else:
            yield f"{file.name}: the package CoreLocker has none"


def _check_privacy_manifest(file: Path) -> Iterator[str]:
    manifest = plistlib.loads(file.read_bytes())
    if set(manifest) != set(PRIVACY_KEYS):
        yield f"{file.name}: the keys are {', '.join(sorted(manifest))}"
    for key, kind in PRIVACY_KEYS.items():
        if not isinstance(manifest.get(key), kind):
            yield f"{file.name}: {key} is no {kind.__name__}"
    for entry in manifest.get("NSPrivacyAccessedAPITypes") or []:
        if set(entry) != {"NSPrivacyAccessedAPIType", "NSPrivacyAccessedAPITypeReasons"}:
            yield f"{file.name}: {entry} names no kind of API or no reasons"
        elif not entry["NSPrivacyAccessedAPITypeReasons"] or not re.fullmatch(
            "NSPrivacyAccessedAPICategory[A-Za-z]+", entry["NSPrivacyAccessedAPIType"]
        ):
            yield f"{file.name}: {entry['NSPrivacyAccessedAPIType']} is no kind of API, or has no reasons"


def check_store(project: Project) -> Iterator[str]:
    """The StoreKit configuration sells what products.json says, and that unlocks every tier that corelocker.toml locks."""
    sold: dict[str, str] = json.loads((project.folder / "products.json").read_bytes())
    name = project.spec["schemes"][project.spec["name"]]["run"]["storeKitConfiguration"]
    store = json.loads((project.folder / name).read_bytes())
    products = [("products", product) for product in store["products"]]
    for group in store["subscriptionGroups"]:
        products += [("subscriptions", product) for product in group["subscriptions"]]
        if any(product["subscriptionGroupID"] != group["id"] for product in group["subscriptions"]):
            yield f"{name}: a subscription stands in a group that is not its own"
    ids = [product["productID"] for _, product in products]
    if sorted(ids) != sorted(sold):
        yield f"{name}: the products are {', '.join(ids)}; products.json has {', '.join(sold)}"
    internal = [product["internalID"] for _, product in products]
    if len(set(internal)) != len(internal):
        yield f"{name}: two products have one internalID"
    for kind, product in products:
        if product["type"] not in PRODUCT_TYPES[kind]:
            yield f"{name}: {product['productID']} is a {product['type']}"
        if not re.fullmatch(r"\d+\.\d\d", product["displayPrice"]):
            yield f"{name}: {product['productID']} costs {product['displayPrice']}"
        texts = {text["locale"]: text for text in product["localizations"]}
        for locale in STORE_LOCALES:
            if not all(texts.get(locale, {}).get(key) for key in ("displayName", "description")):
                yield f"{name}: {product['productID']} has no words in {locale}"
    lock = tomllib.loads((project.folder / "corelocker.toml").read_text("utf-8"))["lock"]["tiers"]
    tiers = [tier.partition("=")[0] for tier in lock.split(",")]
    if set(sold.values()) != set(tiers[1:]):
        yield f"products.json: unlocks {', '.join(sorted(set(sold.values())))}; the lock has {', '.join(tiers[1:])}"


def check_assets(project: Project) -> Iterator[str]:
    """Every picture and color that a catalog or the project names is there, and the icon has its size."""
    from PIL import Image

    for contents in sorted(project.folder.rglob("*.xcassets/**/Contents.json")):
        for image in json.loads(contents.read_bytes()).get("images", []):
            path = contents.parent / image["filename"]
            if not path.exists():
                yield f"{contents.parent.name}: {image['filename']} is missing"
                continue
            with Image.open(path) as picture:
                if f"{picture.width}x{picture.height}" != image["size"] or picture.mode != "RGB":
                    yield f"{path.name}: {picture.mode} of {picture.width}x{picture.height}, not RGB of {image['size']}"
    for setting, suffix in (
        ("ASSETCATALOG_COMPILER_APPICON_NAME", "appiconset"),
        ("ASSETCATALOG_COMPILER_GLOBAL_ACCENT_COLOR_NAME", "colorset"),
    ):
        name = f"{project.setting(setting, 'Release')}.{suffix}"
        if not list(project.folder.rglob(f"*.xcassets/{name}/Contents.json")):
            yield f"project.yml: the asset catalog has no {name}"


def check_localized_plist(project: Project) -> Iterator[str]:
    """InfoPlist.xcstrings has what Info.plist shows to the user, and nothing else."""
    (file,) = project.folder.rglob("InfoPlist.xcstrings")
    shown = {"CFBundleDisplayName": project.setting("INFOPLIST_KEY_CFBundleDisplayName", "Debug")}
    plist = plistlib.loads((project.folder / project.setting("INFOPLIST_FILE", "Debug")).read_bytes())
    shown |= {key: text for key, text in plist.items() if key.endswith("UsageDescription")}
    strings = json.loads(file.read_bytes())["strings"]
    english = {key: entry["localizations"]["en"]["stringUnit"]["value"] for key, entry in strings.items()}
    if english != shown:
        yield f"{file.name}: {english}, but Info.plist has {shown}"


def findings(folder: Path) -> list[str]:
    """What is wrong with the project in `folder`."""
    project = Project(folder)
    found = list(project.unknown_keys()) or list(project.check())
    if found:  # the others read the files that it names
        return found
    checks: tuple[Callable[[Project], Iterator[str]], ...] = (
        check_executorch, check_plists, check_privacy, check_store, check_assets, check_localized_plist,
    )  # fmt: skip
    found = [finding for check in checks for finding in check(project)]
    sources = [path for name in ("App", "DemoCore/Sources") for path in sorted((folder / name).rglob("*.swift"))]
    (catalog,) = folder.rglob("Localizable.xcstrings")
    return found + list(check_strings(catalog, sources, LANGUAGES))


def main(folder: Path = ROOT / "ios_demo") -> int:
    found = findings(folder)
    print("\n".join(found) or f"{folder.name}: project, plists, entitlements, store, privacy, assets and strings fit")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main(*map(Path, sys.argv[1:])))
