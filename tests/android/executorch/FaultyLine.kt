package org.corelocker.executorch

import mockwebserver3.Dispatcher
import mockwebserver3.MockResponse
import mockwebserver3.MockWebServer
import mockwebserver3.RecordedRequest
import mockwebserver3.SocketEffect
import okhttp3.HttpUrl.Companion.toHttpUrl
import okhttp3.MediaType.Companion.toMediaType
import okhttp3.OkHttpClient
import okhttp3.Request
import okhttp3.RequestBody.Companion.toRequestBody
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.TimeUnit

/** A line to the real service that does to each request what [faults] says next, and then nothing. */
internal class FaultyLine(
    service: String,
) : AutoCloseable {
    enum class Fault {
        /** Nothing is wrong with this one. */
        NONE,

        /** The connection breaks before the service has the request. */
        DROP,

        /** The service has done what was asked; the answer gets lost. */
        LOSE_ANSWER,

        /** The answer takes [DELAY_SECONDS]. */
        SLOW,

        /** A proxy in front of the service answers 503, to come back in a second. */
        BUSY,

        /** The same, to come back in an hour. */
        BUSY_FOR_LONG,
    }

    private val target = service.toHttpUrl()
    private val http = OkHttpClient()
    private val server = MockWebServer()
    val faults = ConcurrentLinkedQueue<Fault>()
    val url: String

    init {
        server.dispatcher =
            object : Dispatcher() {
                override fun dispatch(request: RecordedRequest) = answer(request)
            }
        server.start()
        url = "http://${server.hostName}:${server.port}"
    }

    private fun answer(request: RecordedRequest): MockResponse =
        when (faults.poll() ?: Fault.NONE) {
            Fault.NONE -> {
                forward(request).build()
            }

            Fault.DROP -> {
                MockResponse.Builder().onResponseStart(SocketEffect.CloseSocket()).build()
            }

            Fault.LOSE_ANSWER -> {
                forward(request)
                MockResponse.Builder().onResponseStart(SocketEffect.CloseSocket()).build()
            }

            Fault.SLOW -> {
                forward(request).headersDelay(DELAY_SECONDS, TimeUnit.SECONDS).build()
            }

            Fault.BUSY -> {
                busy(1)
            }

            Fault.BUSY_FOR_LONG -> {
                busy(3600)
            }
        }

    private fun busy(seconds: Int) =
        MockResponse
            .Builder()
            .code(503)
            .addHeader("Retry-After", seconds)
            .body("<html>busy</html>")
            .build()

    private fun forward(request: RecordedRequest): MockResponse.Builder {
        val url = target.newBuilder().encodedPath(request.url.encodedPath).build()
        val body = checkNotNull(request.body).toByteArray().toRequestBody("application/json".toMediaType())
        return http
            .newCall(
                Request
                    .Builder()
                    .url(url)
                    .post(body)
                    .build(),
            ).execute()
            .use { answer ->
                MockResponse.Builder().code(answer.code).body(answer.body.string())
            }
    }

    override fun close() = server.close()

    companion object {
        const val DELAY_SECONDS = 4L
    }
}
