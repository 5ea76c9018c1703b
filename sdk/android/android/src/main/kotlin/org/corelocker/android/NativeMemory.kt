package org.corelocker.android

import java.lang.ref.PhantomReference
import java.lang.ref.ReferenceQueue
import java.nio.ByteBuffer
import java.util.concurrent.ConcurrentHashMap
import kotlin.concurrent.thread

/**
 * Frees a native handle: at [close], or when nobody holds [buffer] any more, nor a buffer that was made from it (each keeps the
 * first alive). java.lang.ref.Cleaner does the same, and is in Android since 13 alone.
 */
internal class NativeMemory(
    handle: Long,
    buffer: ByteBuffer,
) : AutoCloseable {
    private val owner = Owner(handle, buffer)

    /** Calls [action] with the handle, which stays open meanwhile. Throws [IllegalStateException] after [close]. */
    fun <T> use(action: (Long) -> T): T = owner.use(action)

    /** Gives the handle away. */
    fun release(): Long = owner.take().also { check(it != 0L) { CLOSED } }

    override fun close() = owner.free()

    private class Owner(
        private var handle: Long,
        buffer: ByteBuffer,
    ) : PhantomReference<ByteBuffer>(buffer, unreachable) {
        init {
            owners.add(this)
        }

        @Synchronized
        fun <T> use(action: (Long) -> T): T {
            check(handle != 0L) { CLOSED }
            return action(handle)
        }

        @Synchronized
        fun take(): Long {
            owners.remove(this)
            return handle.also { handle = 0 }
        }

        @Synchronized
        fun free() {
            val taken = take()
            if (taken != 0L) NativeCore.close(taken)
        }
    }

    private companion object {
        const val CLOSED = "the restored file is closed"

        /** A reference that is not reachable itself is never queued. */
        val owners: MutableSet<Owner> = ConcurrentHashMap.newKeySet()
        val unreachable = ReferenceQueue<ByteBuffer>()

        init {
            thread(isDaemon = true, name = "corelocker-free") {
                while (true) (unreachable.remove() as Owner).free()
            }
        }
    }
}
