import Foundation

/// How long a device keeps trying (`docs/formats.md`, Unlock API).
struct RetryPolicy: Sendable {
    /// Tries before it gives up.
    var attempts = 4
    /// Seconds before the second try, doubled for each further one. A wait is drawn from its upper half, so that a fleet of devices does not
    /// come back at once.
    var firstWait = 0.5
    /// Seconds that it waits at most, also when the service asks for more; then it gives up.
    var longestWait = 30.0
    var sleep: @Sendable (Double) async throws -> Void = { try await Task.sleep(nanoseconds: UInt64($0 * 1e9)) }
}

/// The unlock API over HTTP. One exchange is a challenge and the request that uses it.
struct ServiceClient: Sendable {
    private static let problemPrefix = "urn:corelocker:problem:"
    private static let maxChallenge = 256
    private static let maxAnswer = 64 << 10

    let base: URL
    let transport: any Transport
    let retries: RetryPolicy

    /// The answer to a challenge request.
    struct Challenge: Sendable {
        let nonce: String
        /// A secret that is sealed to the device key, for renewals by `device-key`.
        let sealed: String?
    }

    private enum Outcome: Error {
        case tryAgain(CoreLockerError, after: Double?)
    }

    /// Asks for a challenge, then POSTs to `path` what `body` makes of it; returns that answer's members.
    ///
    /// Where the service is busy or the line breaks, all of it is done again: whether a challenge was used up then is not known, so none
    /// is sent twice.
    func exchange(
        _ path: String, challenge: JSON, body: @Sendable (Challenge) async throws -> JSON
    ) async throws -> Fields {
        var wait = retries.firstWait
        for attempt in 1... {
            do {
                let answer = try await post("/v1/challenges", challenge)
                return try await post(path, try await body(try Self.challenge(answer)))
            } catch Outcome.tryAgain(let error, let asked) {
                let pause = max(asked ?? 0, wait * Double.random(in: 0.5...1))
                guard attempt < retries.attempts, pause <= retries.longestWait else { throw error }
                try await retries.sleep(pause)
                wait *= 2
            }
        }
        preconditionFailure("unreachable: attempts have no end of their own")
    }

    private static func challenge(_ answer: Fields) throws(CoreLockerError) -> Challenge {
        guard let nonce = answer.members["challenge"]?.text, (1...maxChallenge).contains(nonce.unicodeScalars.count) else {
            throw answer.refusal("holds no challenge")
        }
        return Challenge(nonce: nonce, sealed: answer.members["sealed"]?.text)
    }

    private func post(_ path: String, _ body: JSON) async throws -> Fields {
        let answer: ServiceAnswer
        do {
            answer = try await transport.post(try url(path), try CanonicalJSON.encode(body))
        } catch let error as CoreLockerError where error.code == .serviceUnreachable {
            throw Outcome.tryAgain(error, after: nil)
        }
        guard answer.body.count <= Self.maxAnswer else {
            throw CoreLockerError(.serviceProtocol, "The service's answer is larger than \(Self.maxAnswer) bytes")
        }
        guard answer.status == 201 else { throw Self.refusal(answer) }
        return try Fields(answer.body, "the service's answer", .serviceProtocol)
    }

    /// The path of a license's renewal.
    static func renewal(of license: String) -> String {
        let unreserved = CharacterSet(charactersIn: "-._~").union(.alphanumerics)
        return "/v1/licenses/\(license.addingPercentEncoding(withAllowedCharacters: unreserved) ?? "")/renew"
    }

    private func url(_ path: String) throws(CoreLockerError) -> URL {
        let start = base.absoluteString
        guard let url = URL(string: (start.hasSuffix("/") ? String(start.dropLast()) : start) + path) else {
            throw CoreLockerError(.appConfig, "The service's address is malformed")
        }
        return url
    }

    /// What a status other than 201 means. 429, 503 and a challenge that is too old or used up are tried again.
    private static func refusal(_ answer: ServiceAnswer) -> any Error {
        let busy = answer.status == 429 || answer.status == 503
        var error: CoreLockerError
        do {
            error = try problem(answer.body)
        } catch {
            // A proxy in front of the service answers in its own words.
            return busy ? Outcome.tryAgain(tooBusy(answer), after: wait(answer)) : error
        }
        if busy, error.code == .service { error = tooBusy(answer) }
        let again = busy || error.code == .challengeUsed || error.code == .challengeExpired
        return again ? Outcome.tryAgain(error, after: wait(answer)) : error
    }

    private static func tooBusy(_ answer: ServiceAnswer) -> CoreLockerError {
        CoreLockerError(.serviceBusy, "The service answers with status \(answer.status)")
    }

    private static func wait(_ answer: ServiceAnswer) -> Double? {
        guard let asked = answer.retryAfter, (1..<10).contains(asked.utf8.count),
            asked.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
        else { return nil }
        return Double(asked)
    }

    /// The error of a problem document (RFC 9457). Throws `serviceProtocol` when it is not one of the service.
    static func problem(_ data: Data) throws(CoreLockerError) -> CoreLockerError {
        let fields = try Fields(data, "the service's answer", .serviceProtocol)
        let type = try fields.text("type", longest: 128)
        let title = try fields.text("title", longest: 256)
        guard type.hasPrefix(problemPrefix) else { throw fields.refusal("a problem of another program") }
        let message = fields.has("detail") ? try fields.text("detail", longest: 512) : title
        let name = String(type.dropFirst(problemPrefix.count))
        let code = ErrorCode(rawValue: name) ?? .service
        let retryAt = code == .deviceLimit && fields.has("retry_at") ? try fields.integer("retry_at", 0...JSON.maxInteger) : nil
        return CoreLockerError(
            code, code == .service ? "\(message) (\(name))" : message,
            retryAt: retryAt.map { Date(timeIntervalSince1970: Double($0)) },
            requestID: fields.members["request_id"]?.text)
    }
}
