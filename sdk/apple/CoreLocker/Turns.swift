import Foundation

/// Lets asynchronous work have its turn, one piece at a time and in the order in which it came. Who waits can be cancelled.
actor Turns {
    private var isTaken = false
    private var waiting: [(id: UUID, turn: CheckedContinuation<Void, any Error>)] = []

    /// Waits for a turn; ``pass()`` ends it. Throws `CancellationError`, then there is nothing to end.
    func take() async throws {
        try Task.checkCancellation()
        guard isTaken else {
            isTaken = true
            return
        }
        let id = UUID()
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { (turn: CheckedContinuation<Void, any Error>) in
                if Task.isCancelled {
                    turn.resume(throwing: CancellationError())
                } else {
                    waiting.append((id, turn))
                }
            }
        } onCancel: {
            Task { await self.leave(id) }
        }
    }

    /// Ends a turn: the next one begins.
    func pass() {
        guard !waiting.isEmpty else {
            isTaken = false
            return
        }
        waiting.removeFirst().turn.resume()
    }

    private func leave(_ id: UUID) {
        guard let index = waiting.firstIndex(where: { $0.id == id }) else { return }
        waiting.remove(at: index).turn.resume(throwing: CancellationError())
    }
}
