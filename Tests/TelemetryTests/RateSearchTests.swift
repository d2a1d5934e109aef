import RingwayLab
import Telemetry
import Testing

@Suite struct RateSearchTests {
    /// Runs a search against a device that loses what exceeds `capacity`; at most 200 trials.
    private func run(_ search: inout RateSearch, capacity: (Int) -> Double) {
        var n = 0
        while let trial = search.next, n < 200 {
            let offered = UInt64(trial.rate)
            search.record(trial, offered: offered, arrived: UInt64(min(trial.rate, capacity(n))))
            n += 1
        }
        #expect(search.isOver, "still searching after \(n) trials")
    }

    @Test(
        "finds the capacity to within the resolution, by halving",
        arguments: [1000.0, 123_456, 999_999, 5_000_000, 9_990_000])
    func finds(capacity: Double) throws {
        var search = RateSearch(lowest: 100, highest: 10_000_000, resolution: 0.01)
        run(&search) { _ in capacity }
        let found = try #require(search.result)
        #expect(found <= capacity && found >= capacity * 0.985, "\(found), not \(capacity)")
        #expect(search.outcomes.count < 30)
        #expect(search.outcomes.last?.trial.isConfirmation == true && search.outcomes.last?.passed == true)
    }

    @Test("the highest rate itself, if it passes, with a confirmation")
    func highest() {
        var search = RateSearch(lowest: 1, highest: 1_000_000)
        run(&search) { _ in 2_000_000 }
        #expect(search.result == 1_000_000 && search.outcomes.map(\.trial.isConfirmation) == [false, true])
    }

    @Test("nothing passes: the search ends at the lowest rate without a result")
    func nothing() {
        var search = RateSearch(lowest: 1000, highest: 1_000_000)
        run(&search) { _ in 0 }
        #expect(search.result == nil && search.outcomes.last?.trial.rate == 1000)
    }

    @Test("a loss within the tolerance passes; without one a single frame fails")
    func tolerance() throws {
        var tolerant = RateSearch(lowest: 1, highest: 1_000_000, resolution: 0.01, tolerance: 0.1)
        run(&tolerant) { _ in 500_000 }
        #expect(try #require(tolerant.result) > 540_000)
        var strict = RateSearch(lowest: 1, highest: 100, resolution: 0.01)
        strict.record(try #require(strict.next), offered: 1_000_000, arrived: 999_999)
        #expect(strict.outcomes[0].passed == false)
    }

    @Test("a failed confirmation moves the search down, and it still ends with a confirmed rate")
    func unconfirmed() throws {
        var search = RateSearch(lowest: 1, highest: 1_000_000, resolution: 0.02)
        var confirmations = 0
        while let trial = search.next, search.outcomes.count < 200 {
            var capacity = 700_000.0
            // The first two confirmations meet a stall.
            if trial.isConfirmation {
                confirmations += 1
                if confirmations <= 2 { capacity = 0 }
            }
            search.record(trial, offered: UInt64(trial.rate), arrived: UInt64(min(trial.rate, capacity)))
        }
        let found = try #require(search.result)
        #expect(confirmations == 3 && found < 700_000 && found > 400_000, "\(found)")
        #expect(!search.outcomes.contains { !$0.passed && $0.trial.rate <= found && !$0.trial.isConfirmation })
    }

    @Test("an empty trial does not pass")
    func empty() throws {
        var search = RateSearch(lowest: 1, highest: 100)
        search.record(try #require(search.next), offered: 0, arrived: 0)
        #expect(search.outcomes[0].passed == false)
    }
}
