package org.corelocker.executorch

import org.corelocker.android.CoreLocker
import org.corelocker.android.FullCheck
import org.corelocker.android.RestoredFile
import org.corelocker.core.CoreLockerException
import org.corelocker.core.CoreLockerInternal
import org.corelocker.core.ErrorCode
import org.pytorch.executorch.EValue
import java.io.File

/**
 * A model of the app's assets, as [CoreLocker.restore] gives it, ready to run.
 *
 * ```
 * locker.module("classifier.pte").use { module -> module.forward(EValue.from(tensor)) }
 * ```
 */
public fun CoreLocker.module(
    asset: String,
    upTo: String? = null,
    check: FullCheck = FullCheck.AUTOMATIC,
): LockedModule = LockedModule.of(restore(asset, upTo, check))

/** The same for a file that the app downloaded. */
public fun CoreLocker.module(
    file: File,
    artifact: String = file.name,
    upTo: String? = null,
    check: FullCheck = FullCheck.ONCE,
): LockedModule = LockedModule.of(restore(file, artifact, upTo, check))

/** ExecuTorch refused a call. [code] is its error number (`executorch/runtime/core/error.h`). */
public class LockedModuleException(
    public val code: Int,
    message: String,
) : RuntimeException("$message (ExecuTorch error $code)")

/**
 * A locked or restored ExecuTorch program, with the methods of `org.pytorch.executorch.Module` and its types. Calls run one after
 * the other. Delegates copy weights when a method loads, so after an unlock the app makes a new one and closes this one; a locked
 * and a restored module may live at the same time.
 *
 * @property tier the place of the tier that it runs in: 0 is locked.
 */
public class LockedModule private constructor(
    private var handle: Long,
    public val tier: Int,
) : AutoCloseable {
    /** Runs the method `forward`. See [execute]. */
    public fun forward(vararg inputs: EValue): Array<EValue> = execute("forward", *inputs)

    /**
     * Runs a method. The outputs are copies, which the next call leaves alone.
     *
     * @throws LockedModuleException when ExecuTorch refuses it: inputs of another shape or type, no such method, or the file of the
     *   model was changed.
     * @throws IllegalArgumentException for an input of a type that has no place in a model: texts, quantized tensors.
     */
    @Synchronized
    public fun execute(
        method: String,
        vararg inputs: EValue,
    ): Array<EValue> {
        val values = NativeValues(inputs)
        val results = NativeResults()
        val error =
            with(values) { NativeModule.execute(open(), method, kinds, dtypes, shapes, buffers, bits, results) }
        require(error, "the method $method cannot run")
        return results.toArray()
    }

    /** Loads a method before its first call. */
    @Synchronized
    public fun loadMethod(method: String): Unit = require(NativeModule.loadMethod(open(), method), "the method $method cannot be loaded")

    /** The names of the program's methods. */
    @Synchronized
    public fun getMethods(): Array<String> =
        NativeModule.methods(open()) ?: throw LockedModuleException(INVALID_PROGRAM, "the program cannot be read")

    /** As [close]. */
    public fun destroy(): Unit = close()

    /** Frees the module and the memory of its file. */
    @Synchronized
    override fun close() {
        if (handle != 0L) NativeModule.close(handle)
        handle = 0
    }

    private fun open(): Long = handle.also { check(it != 0L) { "the module is closed" } }

    private fun require(
        error: Int,
        message: String,
    ) {
        if (error != 0) throw LockedModuleException(error, message)
    }

    public companion object {
        private const val INVALID_PROGRAM = 0x23

        /** The module of a restored file, which belongs to the module from here on. */
        @OptIn(CoreLockerInternal::class)
        public fun of(file: RestoredFile): LockedModule {
            val tier = file.tier
            val handle = NativeModule.open(file.release())
            if (handle == 0L) throw CoreLockerException(ErrorCode.MEMORY, "there is no memory for a module")
            return LockedModule(handle, tier)
        }
    }
}
