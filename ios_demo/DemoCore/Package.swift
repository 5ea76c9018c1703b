// swift-tools-version: 6.0
import PackageDescription

// What the demo shows and when, without an Apple framework: it is tested on Linux. The views in ../App bind to it.
let package = Package(
    name: "DemoCore",
    defaultLocalization: "en",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "DemoCore", targets: ["DemoCore"])],
    dependencies: [.package(name: "CoreLocker", path: "../..")],
    targets: [
        .target(name: "DemoCore", dependencies: [.product(name: "CoreLocker", package: "CoreLocker")]),
        .testTarget(name: "DemoCoreTests", dependencies: ["DemoCore"]),
    ],
    swiftLanguageModes: [.v6])
