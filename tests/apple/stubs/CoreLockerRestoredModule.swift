import ExecuTorch

/// sdk/apple/ExecuTorch/RestoredModule/include/CoreLockerRestoredModule.h
public final class RestoredModule: Module {
    /// RestoredModule: initWithProgram:programOwner:data:dataOwner:
    public init(program: OpaquePointer, programOwner: Any, data: OpaquePointer?, dataOwner: Any?) { fatalError() }
}
