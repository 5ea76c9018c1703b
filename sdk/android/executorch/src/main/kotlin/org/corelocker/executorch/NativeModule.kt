package org.corelocker.executorch

import java.nio.ByteBuffer

/** ExecuTorch with the data loader of CoreLocker (libcorelocker_executorch.so). Errors are ExecuTorch's numbers, 0 is none. */
internal object NativeModule {
    init {
        try {
            System.loadLibrary("corelocker_executorch")
        } catch (missing: UnsatisfiedLinkError) {
            loadFromExecuTorch(missing)
        }
    }

    /** An app may have built these functions into ExecuTorch's own library. */
    private fun loadFromExecuTorch(missing: UnsatisfiedLinkError) {
        try {
            System.loadLibrary("executorch")
        } catch (_: UnsatisfiedLinkError) {
            throw missing
        }
    }

    /** Takes over the handles of restored files; [data] is 0 where there are no external weights. 0 when there is no memory. */
    @JvmStatic
    external fun open(
        program: Long,
        data: Long,
    ): Long

    @JvmStatic
    external fun close(handle: Long)

    @JvmStatic
    external fun loadMethod(
        handle: Long,
        method: String,
    ): Int

    @JvmStatic
    external fun methods(handle: Long): Array<String>?

    /** Null when there is no such method. */
    @JvmStatic
    external fun backends(
        handle: Long,
        method: String,
    ): Array<String>?

    @JvmStatic
    external fun logLines(): Array<String>

    @JvmStatic
    external fun etdump(
        handle: Long,
        path: String,
    ): Boolean

    /** Runs a method on what [NativeValues] holds, and adds the outputs to [results]. */
    @JvmStatic
    external fun execute(
        handle: Long,
        method: String,
        kinds: IntArray,
        dtypes: IntArray,
        shapes: Array<LongArray?>,
        buffers: Array<ByteBuffer?>,
        bits: LongArray,
        results: NativeResults,
    ): Int
}
