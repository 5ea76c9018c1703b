// swift-tools-version: 6.0
import PackageDescription

// ExecuTorch ships its binaries in a branch for each version. Take the one that exported the model.
let executorch = "swiftpm-1.5.1"

let package = Package(
    name: "CoreLockerExecuTorch",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "CoreLockerExecuTorch", targets: ["CoreLockerExecuTorch"])],
    dependencies: [
        .package(name: "CoreLocker", path: "../../.."),
        .package(url: "https://github.com/pytorch/executorch.git", branch: executorch),
    ],
    targets: [
        .target(
            name: "CoreLockerExecuTorch",
            dependencies: [
                "CoreLockerRestoredModule", .product(name: "CoreLockerDevice", package: "CoreLocker"),
                .product(name: "executorch", package: "executorch"),
            ],
            path: "CoreLockerExecuTorch"),
        .target(
            name: "CoreLockerRestoredModule",
            dependencies: [
                .product(name: "CCoreLocker", package: "CoreLocker"), .product(name: "executorch", package: "executorch"),
            ],
            path: "RestoredModule",
            // ExecuTorch's binaries have no type information that a class of ours could refer to.
            cxxSettings: [.unsafeFlags(["-fno-rtti"])]),
        .testTarget(
            name: "CoreLockerExecuTorchTests",
            dependencies: [
                "CoreLockerRestoredModule", .product(name: "CCoreLocker", package: "CoreLocker"),
                .product(name: "executorch", package: "executorch"),
                .product(name: "kernels_optimized", package: "executorch"),
            ],
            path: "CoreLockerExecuTorchTests",
            // Kernels register themselves; nothing refers to them.
            linkerSettings: [.unsafeFlags(["-Xlinker", "-all_load"])]),
    ],
    swiftLanguageModes: [.v6],
    cxxLanguageStandard: .cxx17)
