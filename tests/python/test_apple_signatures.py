"""The check of the Swift stubs sees what is wrong with a signature."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.apple_signatures import differences, listed_signatures

LIST = """
declare class MLModel extends NSObject {
\tstatic loadContentsOfURLConfigurationCompletionHandler(url: NSURL, configuration: MLModelConfiguration, handler: (p1: MLModel | null, p2: NSError | null) => void): void;
\tpredictionFromFeaturesError(input: MLFeatureProvider, error?: interop.Reference<NSError>): MLFeatureProvider | null;
\tfunctionName: string | null;
}
declare function SecItemAdd(attributes: NSDictionary<any, any>, result: interop.Pointer | interop.Reference<any | null>): number;
"""  # noqa: E501
LOAD = "ObjC: MLModel.loadContentsOfURLConfigurationCompletionHandler"
ADD = "ObjC: SecItemAdd"
PREDICT = "ObjC: MLModel.predictionFromFeaturesError"


@pytest.mark.parametrize(
    ("name", "declaration", "right"),
    [
        (LOAD, "func load(_ url: URL, configuration: MLModelConfiguration = .init()) async throws -> MLModel {}", True),
        (LOAD, "func load(_ url: URL, configuration: MLModelConfiguration) throws -> MLModel {}", False),
        (LOAD, "func load(_ url: URL) async throws -> MLModel {}", False),
        (PREDICT, "func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {}", True),
        (PREDICT, "func prediction(from input: any MLFeatureProvider) -> any MLFeatureProvider {}", False),
        (PREDICT, "func prediction(from provider: any MLFeatureProvider) throws -> any MLFeatureProvider {}", False),
        ("ObjC: MLModel.functionName", "var functionName: String?", True),
        ("ObjC: MLModel.functionName", "var functionName: String", False),
        (ADD, "func SecItemAdd(_ attributes: CFDictionary, _ result: UnsafeMutablePointer<CFTypeRef?>?) -> OSStatus {", True),
        (ADD, "func SecItemAdd(_ attributes: CFDictionary) -> OSStatus {", False),
    ],
)  # fmt: skip
def test_signatures(tmp_path: Path, name: str, declaration: str, right: bool) -> None:
    (tmp_path / "list.d.ts").write_text(LIST)
    compared, wrong = differences(
        f"    /// {name}\n    @discardableResult\n    public {declaration}\n", listed_signatures(tmp_path)
    )
    assert (compared, bool(wrong)) == (1, not right)
