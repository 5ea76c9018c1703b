@_exported import CoreLockerDevice
import CoreLockerRestoredModule
@_exported import ExecuTorch

extension CoreLocker {
    /// The ExecuTorch program `name`.pte of the app, as far as the license goes. Without a license that is the program as it ships: locked.
    ///
    /// ```swift
    /// let module = try await locker.module(named: "Classifier")
    /// let scores: Tensor<Float> = try module.forward(Tensor<Float>(pixels, shape: [1, 3, 224, 224]))
    /// ```
    ///
    /// The restored bytes stay in memory. XNNPACK and other delegates copy weights while a method loads, so ask for a new module after an unlock.
    /// Never set XNNPACK's `packed_cache_path`: it writes restored weights to storage.
    ///
    /// - Parameters:
    ///   - name: the artifact's name in the key bundle, without its extension.
    ///   - data: likewise for external weights, `data`.ptd; nil for the program's own `.ptd`, if it has one.
    /// - Throws: ``CoreLockerError`` with one of the `bundle-`, `patch-` and `restore-` codes, `fileAccess` when the app does not hold a file.
    ///   ExecuTorch's own errors come when the module loads.
    public func module(named name: String, data: String? = nil) async throws -> sending Module {
        let program = "\(name).pte"
        let artifact = bundles.flatMap(\.artifacts).first { $0.name == program }
        let weights = try artifact?.externalWeights(named: data)
        guard let restored = try await restoreIfUnlocked(program) else {
            let paths = try weights.map { [try url(of: $0).path] } ?? []
            return Module(filePath: try url(of: program).path, dataFilePaths: paths, loadMode: .mmap)
        }
        guard let weights else {
            return RestoredModule(program: restored.unsafeHandle, programOwner: restored, data: nil, dataOwner: nil)
        }
        let restoredWeights = try await restore(weights)
        return RestoredModule(
            program: restored.unsafeHandle, programOwner: restored, data: restoredWeights.unsafeHandle, dataOwner: restoredWeights)
    }
}
