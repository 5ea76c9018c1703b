"""Writes one Swift file from the Swift samples of the documentation, so that a compiler can look at them.

python tools/swift_samples.py OUT_FOLDER

Samples are the blocks ```swift of README files, DocC pages and doc comments. Each becomes the body of a method of a screen whose
parameters are the names that samples use without saying where they come from; imports go to the top. What begins with
`dependencies:` is a part of a package's manifest and goes to `manifest/Package.swift`. Errors carry the sample's own file and line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("README.md", "sdk/apple/**/*.md", "sdk/apple/**/*.swift", "ios_demo/**/*.md")
PARAMETERS = """
locker: CoreLocker, client: UnlockClient, configuration: AppConfiguration, bundle: KeyBundle, artifact: BundledArtifact,
license: License, restored: RestoredFile, key: any DeviceKey, attester: any Attester, store: any LicenseStore, digest: Data,
purchase: Purchase, transaction: String, grant: String, grantFromOurBackend: String, product: Product,
result: VerificationResult<StoreKit.Transaction>, url: URL, configurationURL: URL, bundleURL: URL, modelURL: URL, pixels: [Float]
"""
# What an app would have around the sample.
AROUND = """
@MainActor final class Screen {
    var state = UnlockState.locked
    var model: MLModel?
    var updates: Task<Void, Never>?
    var hint: String?
}
struct Log: Sendable { func error(_ message: String) {} }
let logger = Log()
struct PaywallView: View { var body: some View { Text("") } }
func showBanner(_ text: String) {}
func showTooManyDevices(until: Date?) {}
func show(_ text: String, _ more: String?) {}
func hidePaywall() {}
func run(_ data: Data) {}
func run(_ url: URL) {}
func run(_ bytes: UnsafeRawBufferPointer) {}
"""
# What Foundation of Linux lacks.
FOUNDATION = 'extension URL { static var applicationSupportDirectory: URL { URL(fileURLWithPath: "/") } }\n'
IMPORTS = {"CoreLockerCoreML", "CoreLockerExecuTorch", "CoreML", "ExecuTorch", "Foundation", "StoreKit", "SwiftUI"}


class Sample(NamedTuple):
    file: Path
    line: int
    """Of the first line of code, from 1."""
    code: list[str]


def samples(file: Path) -> Iterator[Sample]:
    """The Swift blocks of a page, or of a source's doc comments."""
    code: list[str] | None = None
    start, indent = 0, 0
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if file.suffix == ".swift":
            comment = re.match(r" *///? ?(.*)", line)
            line = comment[1] if comment else ""
        stripped = line.strip()
        if code is None:
            if stripped == "```swift":
                code, start, indent = [], number + 1, len(line) - len(line.lstrip())
        elif stripped == "```":
            yield Sample(file, start, code)
            code = None
        else:
            code.append(line[indent:])
    if code is not None:
        raise SystemExit(f"{file}:{start}: a sample without an end")


def function(number: int, sample: Sample) -> str:
    """A function with the sample as its body, which may declare again what the parameters are called."""
    body = "\n".join("" if line.startswith("import ") else line for line in sample.code)
    # A modifier stands on its own in a comment, on a view in an app.
    if body.lstrip().startswith("."):
        body = 'Text("")' + body
    place = f'#sourceLocation(file: "{sample.file.relative_to(ROOT)}", line: {sample.line})'
    head = f"extension Screen {{ func sample{number}({' '.join(PARAMETERS.split())}) async throws {{ do {{"
    return f"{head}\n{place}\n{body}\n#sourceLocation()\n}} }} }}\n"


def main(out: str) -> int:
    files = sorted({file for place in PLACES for file in ROOT.glob(place)})
    found = [sample for file in files for sample in samples(file)]
    manifests = [sample for sample in found if sample.code[0].startswith("dependencies:")]
    functions = [function(number, sample) for number, sample in enumerate(found) if sample not in manifests]
    imports = IMPORTS | {line.split()[1] for sample in found for line in sample.code if line.startswith("import ")}
    folder = Path(out)
    (folder / "manifest").mkdir(parents=True, exist_ok=True)
    head = "".join(f"import {name}\n" for name in sorted(imports))
    (folder / "Samples.swift").write_text(head + AROUND + FOUNDATION + "\n".join(functions))
    (folder / "manifest/Package.swift").write_text(
        "// swift-tools-version: 6.0\nimport PackageDescription\n"
        + "".join(
            f'let package{n} = Package(name: "App",\n' + "\n".join(sample.code) + ")\n"
            for n, sample in enumerate(manifests)
        )
    )
    print(
        f"{len(functions)} samples and {len(manifests)} parts of manifests in {len({sample.file for sample in found})} files"
    )
    return int(len(functions) < 50 or not manifests)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
