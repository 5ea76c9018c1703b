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
 * A model of the app's assets, as [CoreLocker.restore] gives it, ready to run. Weights that the program holds outside of itself (`.ptd`)
 * are the asset beside it, under the name that was locked.
 *
 * ```
 * locker.module("classifier.pte").use { module -> module.forward(EValue.from(tensor)) }
 * ```
 */
public fun CoreLocker.module(
    asset: String,
    upTo: String? = null,
    check: FullCheck = FullCheck.AUTOMATIC,
): LockedModule {
    val folder = asset.substringBeforeLast('/', "")
    val weights = weightsOf(asset.substringAfterLast('/'))?.let { if (folder.isEmpty()) it else "$folder/$it" }
    val program = restore(asset, upTo, check)
    return LockedModule.of(program, weights?.let { closing(program) { restore(it, upTo, check) } })
}

/**
 * The same for a file that the app downloaded.
 *
 * ```
 * locker.module(File(context.filesDir, "models/v2.pte"), artifact = "classifier.pte").use { module -> module.loadMethod("forward") }
 * ```
 *
 * @param artifact the name of the artifact that was locked, where the file has another one.
 */
public fun CoreLocker.module(
    file: File,
    artifact: String = file.name,
    upTo: String? = null,
    check: FullCheck = FullCheck.ONCE,
): LockedModule {
    val weights = weightsOf(artifact)
    val program = restore(file, artifact, upTo, check)
    return LockedModule.of(program, weights?.let { closing(program) { restore(file.resolveSibling(it), it, upTo, check) } })
}

private fun CoreLocker.weightsOf(artifact: String): String? =
    bundle.artifacts
        .firstOrNull { it.name == artifact }
        ?.files
        ?.singleOrNull { it.path.endsWith(".ptd") }
        ?.path

/** What [open] gives; when it fails, [first] is not left open. */
private fun closing(
    first: RestoredFile,
    open: () -> RestoredFile,
): RestoredFile =
    try {
        open()
    } catch (refused: CoreLockerException) {
        first.close()
        throw refused
    }

/**
 * ExecuTorch refused a call.
 *
 * ```
 * try { module.loadMethod("forward") } catch (refused: LockedModuleException) { log(refused.code, LockedModule.readLogBufferStatic()) }
 * ```
 *
 * @property code ExecuTorch's error number (`executorch/runtime/core/error.h`).
 */
public class LockedModuleException(
    public val code: Int,
    message: String,
) : RuntimeException("$message (ExecuTorch error $code)")

/**
 * A locked or restored ExecuTorch program, with the methods of `org.pytorch.executorch.Module` and its types. Calls run one after
 * the other. Delegates copy weights when a method loads, so after an unlock the app makes a new one and closes this one; a locked
 * and a restored module may live at the same time.
 *
 * ```
 * locker.module("classifier.pte").use { module ->
 *     val scores = module.forward(EValue.from(Tensor.fromBlob(pixels, longArrayOf(1, 3, 224, 224)))).single().toTensor()
 *     show(scores.dataAsFloatArray)
 * }
 * ```
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
     * ```
     * val embedding = module.execute("encode", EValue.from(tensor)).single().toTensor()
     * ```
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

    /**
     * The names of the program's methods.
     *
     * ```
     * module.getMethods().forEach(module::loadMethod)
     * ```
     */
    @Synchronized
    public fun getMethods(): Array<String> =
        NativeModule.methods(open()) ?: throw LockedModuleException(INVALID_PROGRAM, "the program cannot be read")

    /**
     * The name of a method and the backends that it was lowered to.
     *
     * ```
     * if ("XnnpackBackend" !in module.getMethodMetadata("forward").backends) warn("this model runs slowly")
     * ```
     *
     * @throws IllegalArgumentException when there is no such method.
     */
    @Synchronized
    public fun getMethodMetadata(name: String): MethodMetadata =
        MethodMetadata(name, requireNotNull(NativeModule.backends(open(), name)) { "the program has no method $name" })

    /** As [readLogBufferStatic]. */
    public fun readLogBuffer(): Array<String> = readLogBufferStatic()

    /**
     * Writes the profile of the calls since the last one to a file (ETDump, for ExecuTorch's Inspector): names of operators and times,
     * no value of a tensor. Only a native library that was built with `CORELOCKER_PROFILING` profiles.
     *
     * ```
     * val written = module.etdump(File(context.cacheDir, "run.etdump").path)
     * ```
     *
     * @return whether a profile was written.
     */
    @JvmOverloads
    @Synchronized
    public fun etdump(outputPath: String = "/data/local/tmp/result.etdump"): Boolean = NativeModule.etdump(open(), outputPath)

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

        /**
         * The module of a restored file, which belongs to the module from here on.
         *
         * ```
         * LockedModule.of(locker.restore("classifier.pte"), locker.restore("classifier.ptd"))
         * ```
         *
         * @param data the restored weights, for a program that holds them outside of itself (`.ptd`); they go to the module too. Without
         *   them ExecuTorch's XNNPACK ends the process.
         */
        @OptIn(CoreLockerInternal::class)
        @JvmOverloads
        @JvmStatic
        public fun of(
            program: RestoredFile,
            data: RestoredFile? = null,
        ): LockedModule {
            val tier = program.tier
            val handle = NativeModule.open(program.release(), data?.release() ?: 0)
            if (handle == 0L) throw CoreLockerException(ErrorCode.MEMORY, "there is no memory for a module")
            return LockedModule(handle, tier)
        }

        /**
         * The lines that ExecuTorch logged last, oldest first, from when the first module was made.
         *
         * ```
         * LockedModule.readLogBufferStatic().forEach { Log.w("model", it) }
         * ```
         */
        @JvmStatic
        public fun readLogBufferStatic(): Array<String> = NativeModule.logLines()
    }
}

/**
 * What a program says of one of its methods.
 *
 * ```
 * val onXnnpack = "XnnpackBackend" in module.getMethodMetadata("forward").backends
 * ```
 *
 * @property name of the method.
 * @property backends that parts of it were lowered to; none when it runs on kernels alone.
 */
public class MethodMetadata internal constructor(
    public val name: String,
    public val backends: Array<String>,
)
