import Control

/// What a poll thread was sent to see that it comes round, and when.
struct ThreadProbe {
    let ticket: WorkQueue.Ticket
    let since: UInt64
}
