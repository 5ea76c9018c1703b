// swift-tools-version: 6.0
import PackageDescription

var coreDependencies: [Target.Dependency] = ["CCoreLocker"]
var targets: [Target] = []
#if os(Linux)
    // CryptoKit is on Apple systems only; on Linux, where the core is tested, OpenSSL takes its place.
    targets.append(
        .systemLibrary(
            name: "COpenSSL", path: "sdk/apple/COpenSSL", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]))
    coreDependencies.append("COpenSSL")
#endif

targets += [
    .target(
        name: "CCoreLocker",
        path: "sdk/cpp",
        exclude: ["CMakeLists.txt", "CMakePresets.json", "README.md", "cmake", "tools", "src/executorch.cpp"],
        sources: ["src"],
        publicHeadersPath: "include",
        cxxSettings: [.headerSearchPath("src")]),
    .target(
        name: "CoreLocker", dependencies: coreDependencies, path: "sdk/apple/CoreLocker", resources: [.copy("PrivacyInfo.xcprivacy")]),
    // On Linux these two are built without the calls of Apple's frameworks, and tested so.
    .target(name: "CoreLockerDevice", dependencies: ["CoreLocker"], path: "sdk/apple/CoreLockerDevice"),
    .target(name: "CoreLockerCoreML", dependencies: ["CoreLockerDevice", "CoreLocker"], path: "sdk/apple/CoreLockerCoreML"),
    .testTarget(
        name: "CoreLockerTests", dependencies: ["CoreLocker", "CoreLockerDevice", "CoreLockerCoreML", "CCoreLocker"],
        path: "tests/apple/CoreLockerTests"),
    .testTarget(
        name: "CoreLockerDeviceTests", dependencies: ["CoreLocker", "CoreLockerDevice"],
        path: "tests/apple/CoreLockerDeviceTests"),
    .testTarget(
        name: "CoreLockerCoreMLTests", dependencies: ["CoreLocker", "CoreLockerDevice", "CoreLockerCoreML"],
        path: "tests/apple/CoreLockerCoreMLTests"),
]

let package = Package(
    name: "CoreLocker",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "CoreLocker", targets: ["CoreLocker"]),
        .library(name: "CCoreLocker", targets: ["CCoreLocker"]),
        .library(name: "CoreLockerDevice", targets: ["CoreLockerDevice"]),
        .library(name: "CoreLockerCoreML", targets: ["CoreLockerCoreML"]),
    ],
    targets: targets,
    swiftLanguageModes: [.v6],
    cxxLanguageStandard: .cxx17)
