import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// What a service answered.
struct ServiceAnswer: Sendable {
    let status: Int
    /// The header `Retry-After`, as it came.
    let retryAfter: String?
    let body: Data
}

/// Sends a request to the unlock service.
protocol Transport: Sendable {
    /// POSTs JSON. Throws `serviceUnreachable` without an answer.
    func post(_ url: URL, _ body: Data) async throws -> ServiceAnswer
}

/// `URLSession` without redirects, cookies and caches.
final class URLSessionTransport: Transport {
    private let session: URLSession

    init() {
        let configuration = URLSessionConfiguration.ephemeral
        configuration.timeoutIntervalForRequest = 20
        configuration.timeoutIntervalForResource = 25
        configuration.httpCookieStorage = nil
        configuration.urlCache = nil
        session = URLSession(configuration: configuration, delegate: NoRedirects(), delegateQueue: nil)
    }

    deinit { session.finishTasksAndInvalidate() }

    func post(_ url: URL, _ body: Data) async throws -> ServiceAnswer {
        var request = URLRequest(url: url)
        request.httpMethod = "POST"
        request.httpBody = body
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        let (data, response): (Data, URLResponse)
        do {
            (data, response) = try await session.data(for: request)
        } catch {
            try Task.checkCancellation()
            throw CoreLockerError(.serviceUnreachable, "The service cannot be reached")
        }
        guard let answer = response as? HTTPURLResponse else {
            throw CoreLockerError(.serviceProtocol, "The answer is not of HTTP")
        }
        return ServiceAnswer(
            status: answer.statusCode, retryAfter: answer.value(forHTTPHeaderField: "Retry-After"), body: data)
    }
}

/// An unlock service answers where it is asked.
private final class NoRedirects: NSObject, URLSessionTaskDelegate, Sendable {
    func urlSession(
        _ session: URLSession, task: URLSessionTask, willPerformHTTPRedirection response: HTTPURLResponse,
        newRequest request: URLRequest, completionHandler: @escaping (URLRequest?) -> Void
    ) {
        completionHandler(nil)
    }
}
