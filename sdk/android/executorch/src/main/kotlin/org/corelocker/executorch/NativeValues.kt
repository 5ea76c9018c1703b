package org.corelocker.executorch

import org.pytorch.executorch.DType
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Tensor
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** How values cross to native code; module.cpp has the same numbers. */
private object Kind {
    const val NONE = 0
    const val TENSOR = 1
    const val BOOLEAN = 2
    const val INTEGER = 3
    const val REAL = 4
}

private fun allocate(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

/** The inputs of a call as native code takes them. By the public methods of EValue and Tensor alone, so it copies tensors. */
internal class NativeValues(
    values: Array<out EValue>,
) {
    val kinds = IntArray(values.size)
    val dtypes = IntArray(values.size)
    val shapes = arrayOfNulls<LongArray>(values.size)
    val buffers = arrayOfNulls<ByteBuffer>(values.size)
    val bits = LongArray(values.size)

    init {
        values.forEachIndexed { index, value ->
            when {
                value.isTensor -> set(index, value.toTensor())
                value.isBool -> set(index, Kind.BOOLEAN, if (value.toBool()) 1 else 0)
                value.isInt -> set(index, Kind.INTEGER, value.toInt())
                value.isDouble -> set(index, Kind.REAL, value.toDouble().toRawBits())
                value.isNone -> set(index, Kind.NONE, 0)
                else -> throw IllegalArgumentException("input $index is of a type that models do not take")
            }
        }
    }

    private fun set(
        index: Int,
        kind: Int,
        value: Long,
    ) {
        kinds[index] = kind
        bits[index] = value
    }

    private fun set(
        index: Int,
        tensor: Tensor,
    ) {
        val type = ElementType.of(tensor.dtype())
        kinds[index] = Kind.TENSOR
        dtypes[index] = type.scalarType
        shapes[index] = tensor.shape()
        buffers[index] = allocate(Math.multiplyExact(Math.toIntExact(tensor.numel()), type.size)).also { type.read(tensor, it) }
    }
}

/** Collects the outputs of a call; native code calls its methods. */
internal class NativeResults {
    private val values = ArrayList<() -> EValue>()

    /** A buffer of [bytes] for native code to fill; null for a type that Java's tensors do not have. */
    fun addTensor(
        scalarType: Int,
        shape: LongArray,
        bytes: Int,
    ): ByteBuffer? {
        val type = ElementType.entries.find { it.scalarType == scalarType } ?: return null
        val data = allocate(bytes)
        values.add { EValue.from(type.tensor(data, shape)) }
        return data
    }

    fun addNumber(
        kind: Int,
        bits: Long,
    ) {
        val value =
            when (kind) {
                Kind.BOOLEAN -> EValue.from(bits != 0L)
                Kind.INTEGER -> EValue.from(bits)
                Kind.REAL -> EValue.from(Double.fromBits(bits))
                else -> EValue.optionalNone()
            }
        values.add { value }
    }

    fun toArray(): Array<EValue> = values.map { it() }.toTypedArray()
}

/** Types of elements that Java's tensors have, with their number in ExecuTorch (ScalarType) and their size in bytes. */
private enum class ElementType(
    val dtype: DType,
    val scalarType: Int,
    val size: Int,
) {
    UINT8(DType.UINT8, 0, 1),
    INT8(DType.INT8, 1, 1),
    INT32(DType.INT32, 3, 4),
    INT64(DType.INT64, 4, 8),
    HALF(DType.HALF, 5, 2),
    FLOAT(DType.FLOAT, 6, 4),
    DOUBLE(DType.DOUBLE, 7, 8),
    ;

    /** Copies the elements of a tensor to native memory. */
    fun read(
        tensor: Tensor,
        target: ByteBuffer,
    ) {
        when (this) {
            UINT8 -> target.put(tensor.dataAsUnsignedByteArray)
            INT8 -> target.put(tensor.dataAsByteArray)
            INT32 -> target.asIntBuffer().put(tensor.dataAsIntArray)
            INT64 -> target.asLongBuffer().put(tensor.dataAsLongArray)
            HALF -> target.asShortBuffer().put(tensor.dataAsShortArray)
            FLOAT -> target.asFloatBuffer().put(tensor.dataAsFloatArray)
            DOUBLE -> target.asDoubleBuffer().put(tensor.dataAsDoubleArray)
        }
    }

    /** A tensor over native memory. */
    fun tensor(
        data: ByteBuffer,
        shape: LongArray,
    ): Tensor =
        when (this) {
            UINT8 -> Tensor.fromBlobUnsigned(data, shape)
            INT8 -> Tensor.fromBlob(data, shape)
            INT32 -> Tensor.fromBlob(data.asIntBuffer(), shape)
            INT64 -> Tensor.fromBlob(data.asLongBuffer(), shape)
            HALF -> Tensor.fromBlob(data.asShortBuffer(), shape)
            FLOAT -> Tensor.fromBlob(data.asFloatBuffer(), shape)
            DOUBLE -> Tensor.fromBlob(data.asDoubleBuffer(), shape)
        }

    companion object {
        fun of(dtype: DType): ElementType =
            entries.find { it.dtype == dtype } ?: throw IllegalArgumentException("models take no tensors of $dtype")
    }
}
