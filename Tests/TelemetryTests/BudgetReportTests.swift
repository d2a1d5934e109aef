import RingwayLab
import Telemetry
import Testing

@Suite struct BudgetReportTests {
    private static func point(
        _ budget: String, _ cpu: Double, _ p99: Double, load: Double = 1000, throughput: Double = 1000
    ) -> BudgetReport.Point {
        .init(budget: budget, load: load, cpu: cpu, p50: p99 / 2, p99: p99, throughput: throughput, systemCalls: 0)
    }

    private func verdict(auto: (Double, Double)) throws -> BudgetReport.Verdict {
        try #require(
            BudgetReport([
                BudgetReportTests.point("0", 10, 60), BudgetReportTests.point("20", 30, 30),
                BudgetReportTests.point("100", 60, 20), BudgetReportTests.point("poll", 100, 1),
                BudgetReportTests.point("auto", auto.0, auto.1),
            ]).verdicts.first)
    }

    @Test("auto like 0 and auto like poll pass; in between it fails")
    func either() throws {
        #expect(try verdict(auto: (11.9, 70)).passed)
        #expect(try verdict(auto: (100, 1.19)).passed)
        #expect(try !verdict(auto: (13, 25)).isNearEither)
        let v = try verdict(auto: (11, 66))
        #expect(abs(v.cpuToZero - 1.1) < 1e-9 && abs(v.delayToPoll - 66) < 1e-9)
    }

    @Test("a fixed budget that is better in both is named; one that is better in one is not")
    func neighbours() throws {
        #expect(try verdict(auto: (40, 40)).betterInBoth == ["20"])
        #expect(try verdict(auto: (80, 90)).betterInBoth == ["0", "20", "100"])
        #expect(try verdict(auto: (35, 25)).betterInBoth.isEmpty)
        #expect(try !verdict(auto: (40, 40)).passed)
    }

    @Test("at full load packets a second stand for the latency")
    func full() throws {
        let points = [("0", 90.0, 1e6), ("poll", 100, 2e6), ("auto", 100, 1.9e6)].map {
            BudgetReportTests.point($0.0, $0.1, 0, load: .infinity, throughput: $0.2)
        }
        let v = try #require(BudgetReport(points).verdicts.first)
        #expect(v.passed && abs(v.delayToPoll - 2 / 1.9) < 1e-9)
    }

    @Test("recommended is the cheapest budget near poll at every load, else poll")
    func recommended() {
        var points: [BudgetReport.Point] = []
        for load in [1000.0, 100_000] {
            points += [
                BudgetReportTests.point("0", 10, load == 1000 ? 30 : 90, load: load),
                BudgetReportTests.point("50", 40, 30, load: load),
            ]
            points += [BudgetReportTests.point("poll", 100, 1, load: load)]
        }
        let report = BudgetReport(points)
        #expect(report.recommended(allowed: 50) == "50")
        #expect(report.recommended(allowed: 100) == "0")
        #expect(report.recommended(allowed: 5) == "poll")
        #expect(report.cost("50") == 40 && report.loads == [1000, 100_000] && report.budgets == ["0", "50", "poll"])
        #expect(BudgetReport([BudgetReportTests.point("50", 1, 1)]).recommended(allowed: 50) == nil)
    }

    @Test("medians") func medians() {
        #expect(
            BudgetReport.median([3, 1, 2]) == 2 && BudgetReport.median([4, 1, 2, 3]) == 2.5
                && BudgetReport.median([]) == 0)
    }
}
