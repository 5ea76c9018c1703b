import Foundation

/// ExecuTorch: ExecuTorchModuleLoadMode
public enum ModuleLoadMode: Int, Sendable { case file, mmap, mmapUseMlock, mmapUseMlockIgnoreErrors }

/// ExecuTorch: ExecuTorchModule
open class Module: NSObject {
    /// ExecuTorch: initWithFilePath:dataFilePaths:loadMode:
    public init(filePath: String, dataFilePaths: [String], loadMode: ModuleLoadMode) {}
    /// ExecuTorch: loadMethod:error:
    open func load(_ methodName: String) throws { fatalError() }
}

public protocol Scalar {}
extension Float: Scalar {}

// ExecuTorch+Tensor.swift, +Value.swift and +Module.swift.
public protocol ValueConvertible {}
public protocol ValueSequenceConstructible {}

public final class Tensor<T: Scalar>: ValueConvertible, ValueSequenceConstructible {
    public convenience init(
        _ scalars: [T], shape: [Int] = [], strides: [Int] = [], dimensionOrder: [Int] = []
    ) { fatalError() }
    public func scalars() -> [T] { fatalError() }
}

extension Module {
    public func forward<Output: ValueSequenceConstructible>(_ input: ValueConvertible) throws -> Output { fatalError() }
}
