package org.corelocker.core

import kotlinx.coroutines.delay
import kotlinx.coroutines.suspendCancellableCoroutine
import kotlinx.serialization.json.JsonObject
import okhttp3.Call
import okhttp3.Callback
import okhttp3.MediaType.Companion.toMediaType
import okhttp3.OkHttpClient
import okhttp3.Request
import okhttp3.RequestBody.Companion.toRequestBody
import okhttp3.Response
import okio.Buffer
import java.io.IOException
import java.time.Instant
import javax.net.ssl.SSLException
import kotlin.coroutines.resume
import kotlin.coroutines.resumeWithException
import kotlin.random.Random
import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds
import kotlin.time.toJavaDuration

/**
 * How long a device keeps trying.
 *
 * ```
 * UnlockClient(config, bundle, device, retry = RetryPolicy(attempts = 2, longestWait = 5.seconds))
 * ```
 *
 * @property attempts tries before it gives up.
 * @property firstWait before the second try; doubled for each further one, and drawn at random from its upper half, so that a
 *   fleet of devices does not come back at once.
 * @property longestWait it waits no longer, also when the service asks for more; then it gives up, and the app decides.
 */
public class RetryPolicy(
    public val attempts: Int = 4,
    public val firstWait: Duration = 500.milliseconds,
    public val longestWait: Duration = 30.seconds,
) {
    init {
        require(attempts >= 1 && firstWait.isPositive()) { "a retry policy tries once at least" }
    }
}

/** Tells that the client tries ([waitingUntil] null), or waits before it tries again. */
internal fun interface AttemptListener {
    fun onAttempt(
        attempt: Int,
        waitingUntil: Instant?,
        cause: ErrorCode?,
    )
}

/** The unlock API over HTTP (docs/formats.md, Unlock API): one exchange is a challenge and the request that uses it. */
internal class ServiceClient(
    private val base: String,
    http: OkHttpClient,
    private val retry: RetryPolicy,
    private val pause: suspend (Duration) -> Unit = { delay(it) },
) {
    // A request that the service may have got is never sent again by itself: its challenge may be used up.
    private val http =
        http
            .newBuilder()
            .followRedirects(false)
            .followSslRedirects(false)
            .retryOnConnectionFailure(false)
            .connectTimeout(CONNECT_TIMEOUT.toJavaDuration())
            .callTimeout(patience(http).toJavaDuration())
            .build()

    /**
     * Asks for a challenge with the members [challenge], then posts to [path] what [body] makes of the answer; returns the answer
     * to that.
     *
     * Where the service or the secure hardware is busy or the line breaks, all of it is done again, with a new challenge. A
     * device that asks with the same key, or proves its former one, keeps its place.
     *
     * Throws [CoreLockerException] with the code that the service's problem names, SERVICE for one that is not known here,
     * SERVICE_BUSY, SERVICE_UNREACHABLE or SERVICE_PROTOCOL.
     */
    suspend fun exchange(
        path: String,
        challenge: () -> JsonObject,
        listener: AttemptListener,
        body: (JsonObject) -> JsonObject,
    ): JsonObject {
        var wait = retry.firstWait
        var attempt = 1
        while (true) {
            listener.onAttempt(attempt, null, null)
            val again =
                try {
                    return post(path, body(post("/v1/challenges", challenge())))
                } catch (again: TryAgainException) {
                    again
                } catch (refused: CoreLockerException) {
                    // The secure hardware has a bad moment; what it vouched for by then is of no use to a new challenge.
                    if (refused.code != ErrorCode.DEVICE_BUSY) throw refused
                    TryAgainException(refused, null)
                }
            // Retry-After is when the service wants to be asked at the earliest.
            val pause = maxOf(again.wait ?: Duration.ZERO, wait * Random.nextDouble(JITTER_FROM, 1.0))
            if (attempt == retry.attempts || pause > retry.longestWait) throw again.error
            listener.onAttempt(++attempt, Instant.now().plus(pause.toJavaDuration()), again.error.code)
            pause(pause)
            wait *= 2
        }
    }

    private suspend fun post(
        path: String,
        members: JsonObject,
    ): JsonObject {
        val request =
            Request
                .Builder()
                .url(base + path)
                .header("Accept-Encoding", "identity")
                .post(members.toString().toByteArray().toRequestBody(JSON))
                .build()
        val answer =
            try {
                http.newCall(request).await()
            } catch (_: SSLException) {
                throw CoreLockerException(ErrorCode.SERVICE_UNREACHABLE, "the service's certificate is not trusted")
            } catch (_: IOException) {
                throw TryAgainException(CoreLockerException(ErrorCode.SERVICE_UNREACHABLE, "the service cannot be reached"), null)
            }
        if (answer.body.size > MAX_ANSWER) throw ServiceProblem.protocol("its answer is longer than $MAX_ANSWER bytes")
        if (answer.status != CREATED) throw refusal(answer)
        return ServiceProblem.parse(answer.body).values
    }

    /** What a status other than 201 means; 429, 503 and a challenge that is too old or used up are tried again. */
    private fun refusal(answer: Answer): Exception {
        val busy = answer.status == TOO_MANY_REQUESTS || answer.status == UNAVAILABLE
        var error = ServiceProblem.read(answer.body)
        if (busy && (error.code == ErrorCode.SERVICE || error.code == ErrorCode.SERVICE_PROTOCOL)) {
            // A proxy in front of the service answers in its own words.
            error = CoreLockerException(ErrorCode.SERVICE_BUSY, "the service answers with status ${answer.status}")
        }
        val stale = error.code == ErrorCode.CHALLENGE_USED || error.code == ErrorCode.CHALLENGE_EXPIRED
        return if (busy || stale) TryAgainException(error, answer.retryAfter) else error
    }

    private class TryAgainException(
        val error: CoreLockerException,
        val wait: Duration?,
    ) : Exception()

    private class Answer(
        val status: Int,
        val retryAfter: Duration?,
        val body: ByteArray,
    )

    private suspend fun Call.await(): Answer =
        suspendCancellableCoroutine { continuation ->
            continuation.invokeOnCancellation { cancel() }
            enqueue(
                object : Callback {
                    override fun onFailure(
                        call: Call,
                        e: IOException,
                    ) = continuation.resumeWithException(e)

                    override fun onResponse(
                        call: Call,
                        response: Response,
                    ) {
                        val answer =
                            try {
                                response.use(::read)
                            } catch (broken: IOException) {
                                return continuation.resumeWithException(broken)
                            }
                        continuation.resume(answer)
                    }
                },
            )
        }

    /** The answer with one byte more of its body than is allowed, at most. */
    private fun read(response: Response): Answer {
        val body = Buffer()
        do {
            val got = response.body.source().read(body, MAX_ANSWER + 1 - body.size)
        } while (got >= 0 && body.size <= MAX_ANSWER)
        val asked = response.header("Retry-After").orEmpty()
        val retryAfter = if (SECONDS.matches(asked)) asked.toLong().seconds else null
        return Answer(response.code, retryAfter, body.readByteArray())
    }

    private companion object {
        /** The app's own call time-out, where it has a shorter one. */
        fun patience(http: OkHttpClient): Duration {
            val given = http.callTimeoutMillis.milliseconds
            return if (given.isPositive()) minOf(given, ANSWER_TIMEOUT) else ANSWER_TIMEOUT
        }

        const val CREATED = 201
        const val TOO_MANY_REQUESTS = 429
        const val UNAVAILABLE = 503
        const val JITTER_FROM = 0.5

        /** What a service answers is small: a license has 16 KiB at most. */
        const val MAX_ANSWER = 64L shl 10
        val SECONDS = Regex("[0-9]{1,9}")
        val CONNECT_TIMEOUT = 5.seconds
        val ANSWER_TIMEOUT = 20.seconds
        val JSON = "application/json".toMediaType()
    }
}

/** Reads what the service answers when it refuses: problem details (RFC 9457). */
internal object ServiceProblem {
    private const val PREFIX = "urn:corelocker:problem:"
    private const val MAX_TYPE = 128
    private const val MAX_TITLE = 256
    private const val MAX_DETAIL = 512

    fun protocol(reason: String): CoreLockerException = CoreLockerException(ErrorCode.SERVICE_PROTOCOL, "the service: $reason")

    fun parse(data: ByteArray): Fields = Fields.parse(data, "the service's answer", ErrorCode.SERVICE_PROTOCOL)

    /** The error that a problem document names; SERVICE for one that is not known here, SERVICE_PROTOCOL when it is none. */
    fun read(data: ByteArray): CoreLockerException =
        try {
            val problem = parse(data)
            val type = problem.text("type", MAX_TYPE)
            val title = problem.text("title", MAX_TITLE)
            val message = if ("detail" in problem) problem.text("detail", MAX_DETAIL) else title
            if (!type.startsWith(PREFIX)) throw problem.refuse("it is a problem of another program")
            error(type.removePrefix(PREFIX), message, problem)
        } catch (unclear: CoreLockerException) {
            unclear
        }

    private fun error(
        word: String,
        message: String,
        problem: Fields,
    ): CoreLockerException {
        val code = ErrorCode.of(word) ?: return CoreLockerException(ErrorCode.SERVICE, "$message ($word)")
        val retryAt =
            if (code == ErrorCode.DEVICE_LIMIT && "retry_at" in problem) {
                Instant.ofEpochSecond(problem.integer("retry_at", 0..StrictJson.MAX_INTEGER))
            } else {
                null
            }
        return CoreLockerException(code, message, retryAt)
    }
}
