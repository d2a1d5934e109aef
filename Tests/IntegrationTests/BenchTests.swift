import Foundation
import Testing

/// `ringway bench` and `ringway tune` as somebody uses them who reads their output with a program.
@Suite(.serialized) struct BenchTests {
    private func object(_ arguments: [String], seconds: Double = 120) throws -> [String: Any] {
        let program = try Program("bench", [Ringway.binary] + arguments)
        let status = program.wait(seconds: seconds)
        guard status == 0, let line = program.output.split(separator: "\n").last(where: { $0.hasPrefix("{") }),
            let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
        else { throw Unexpected("\(arguments): status \(status ?? -1):\n\(program.output.suffix(2000))") }
        return object
    }

    @Test(
        "throughput: the rate found is one that was tried last, confirmed, and not above full rings",
        arguments: [
            ["--mode", "macswap"], ["--mode", "crossconnect", "--packed", "--size", "imix"],
            ["--mode", "drop", "--queues", "2"], ["--mode", "switch", "--both-ways", "--in-order", "--packed"],
        ])
    func throughput(_ more: [String]) throws {
        let o = try object(
            [
                "bench", "throughput", "--seconds", "0.2", "--trial", "0.05", "--resolution", "5", "--loss-tolerance",
                "1", "--json",
            ] + more)
        let full = try #require(o["full_mpps"] as? Double)
        let trials = try #require(o["trials"] as? [[String: Any]])
        #expect(full > 0 && !trials.isEmpty)
        let last = try #require(trials.last)
        // None, if other work on the machine disturbs every trial.
        if let found = o["lossless_mpps"] as? Double {
            #expect(last["confirmation"] as? Bool == true && last["passed"] as? Bool == true)
            #expect(last["mpps"] as? Double == found && found <= full * 1.0001)
        } else {
            #expect(
                o["lossless_mpps"] is NSNull
                    && !trials.contains { $0["confirmation"] as? Bool == true && $0["passed"] as? Bool == true }, "\(o)"
            )
        }
        for trial in trials {
            #expect((trial["arrived"] as? Int ?? Int.max) <= (trial["offered"] as? Int ?? 0), "\(trial)")
        }
    }

    @Test("generate has full rings and no search")
    func generate() throws {
        let o = try object(["bench", "throughput", "--mode", "generate", "--seconds", "0.2", "--json"])
        #expect(
            (o["full_mpps"] as? Double ?? 0) > 0 && o["lossless_mpps"] is NSNull
                && (o["trials"] as? [Any])?.isEmpty == true)
    }

    @Test("latency: every frame is counted in the round trip and in the ring sojourn; files are there and agree")
    func latency() throws {
        let folder = Folder()
        let o = try object([
            "bench", "latency", "--mode", "macswap", "--rates", "5k,20k", "--seconds", "0.5", "--json", "--hgrm",
            folder("h"), "--svg", folder("plot.svg"),
        ])
        let results = try #require(o["results"] as? [[String: Any]])
        #expect(results.count == 2)
        for (r, rate) in zip(results, [5000, 20_000]) {
            let offered = try #require(r["offered"] as? Int)
            let (sent, arrived) = (try #require(r["sent"] as? Int), try #require(r["arrived"] as? Int))
            // None is lost, unless other work keeps the CPU for longer than a ring holds.
            #expect(offered == rate / 2 && r["lost"] as? Int == offered - arrived && arrived > 0)
            let (trip, sojourn) = (
                try #require(r["round_trip"] as? [String: Int]), try #require(r["ring_sojourn"] as? [String: Int])
            )
            #expect(trip["count"] == arrived && sojourn["count"] == sent)
            for h in [trip, sojourn] {
                let values = ["p50", "p75", "p90", "p99", "p99.9", "p99.99", "p99.999", "max"].compactMap { h[$0] }
                #expect(values.count == 8 && values == values.sorted())
            }
            // Each packet is in the ring for a part of its round trip; the sojourns are known to 3 %.
            #expect(Double(sojourn["p50"]!) < Double(trip["p50"]!) * 1.04)
            let text = try String(contentsOfFile: folder("h-\(rate)-round-trip.hgrm"), encoding: .utf8)
            let lines = text.split(separator: "\n")
            #expect(lines[0].contains("Value") && lines[0].contains("TotalCount"))
            let total = lines.last { !$0.hasPrefix("#") }?.split(separator: " ").dropFirst(2).first.flatMap { Int($0) }
            #expect(total == arrived)
            #expect(FileManager.default.fileExists(atPath: folder("h-\(rate)-ring-sojourn.hgrm")))
        }
        let svg = try Data(contentsOf: URL(fileURLWithPath: folder("plot.svg")))
        #expect(String(decoding: svg, as: UTF8.self).contains("ring sojourn"))
        // Well-formed.
        let parser = try Program(
            "xml",
            ["python3", "-c", "import sys,xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])", folder("plot.svg")])
        #expect(parser.wait() == 0, "\(parser.output)")
    }

    @Test(
        """
        latency of drop has the ring sojourn alone; a stall of the driver counts for every frame that was due \
        meanwhile
        """
    )
    func stall() throws {
        let o = try object(["bench", "latency", "--mode", "drop", "--rates", "20k", "--seconds", "0.5", "--json"])
        let r = try #require((o["results"] as? [[String: Any]])?.first)
        #expect((r["round_trip"] as? [String: Int])?["count"] == 0)
        // What the ring had no room for, where something else has the CPUs, is lost and told.
        let (offered, lost) = (try #require(r["offered"] as? Int), try #require(r["lost"] as? Int))
        #expect(offered == 10_000 && (r["ring_sojourn"] as? [String: Int])?["count"] == offered - lost, "\(r)")
        let program = try Program(
            "bench",
            [Ringway.binary, "bench", "latency", "--mode", "macswap", "--rates", "10k", "--seconds", "2", "--json"])
        usleep(1_000_000)
        kill(program.pid, SIGSTOP)
        usleep(300_000)
        kill(program.pid, SIGCONT)
        #expect(program.wait() == 0)
        let line = try #require(program.output.split(separator: "\n").last)
        let stalled = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
        let trip = try #require(((stalled?["results"] as? [[String: Any]])?.first?["round_trip"]) as? [String: Int])
        // 3000 of 20000 frames were due during the stall, on average half of it late: with coordinated omission it
        // would be one.
        #expect(trip["p90"]! > 50_000_000 && trip["max"]! >= 290_000_000, "\(trip)")
    }

    @Test("tune: a point for each budget and load, verdicts for auto, calls with and without batching, plots")
    func tune() throws {
        let folder = Folder()
        let o = try object([
            "tune", "--budgets", "0,50,auto,poll", "--rates", "1k,100k,full", "--samples", "1", "--seconds", "0.15",
            "--json", "--svg", folder("t"),
        ])
        let points = try #require(o["points"] as? [[String: Any]])
        #expect(points.count == 12)
        func cpu(_ budget: String) -> Double {
            points.first { $0["budget"] as? String == budget && $0["load"] as? Int == 1000 }?["cpu_percent"] as? Double
                ?? -1
        }
        // How much depends on what else the machine does; what budgets do is tested on made-up clocks
        // (AutoBudgetTests).
        for budget in ["0", "50", "auto", "poll"] { #expect(cpu(budget) > 0, "\(budget): \(cpu(budget))") }
        #expect((o["auto"] as? [Any])?.count == 3 && (o["calls"] as? [Any])?.count == 6 && o["recommended"] is String)
        let calls = try #require(o["calls"] as? [[String: Any]]).filter { $0["load"] as? String == "full" }
        func perPacket(_ batched: Bool) -> Double {
            calls.first { $0["batched"] as? Bool == batched }?["system_calls_per_packet"] as? Double ?? -1
        }
        #expect(perPacket(true) > 0 && perPacket(false) > 0, "\(calls)")
        for name in ["t-latency.svg", "t-cpu.svg", "t-latency-cpu.svg"] {
            #expect(FileManager.default.fileExists(atPath: folder(name)))
        }
    }

    @Test(
        """
        forward --json prints percentiles for each queue, in intervals and totals; bench on its socket counts the \
        same frames
        """
    )
    func live() throws {
        let folder = Folder()
        let ringway = try Ringway(
            ["vhost-user:\(folder("p"))"], mode: "macswap", ["--busyloop", "0", "--stats", "0.3"])
        let bench = try Program(
            "bench",
            [Ringway.binary, "bench", "latency", "--socket", folder("p"), "--rates", "1k", "--seconds", "1", "--json"])
        #expect(bench.wait(seconds: 60) == 0, "\(bench.output)")
        _ = ringway.program.end()
        for kind in ["interval", "totals"] {
            let line = try #require(
                ringway.log.split(separator: "\n").last {
                    $0.contains("\"type\":\"\(kind)\"") && $0.contains("queue_times")
                }, "\(ringway.log)")
            let o = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
            let times = try #require(o["queue_times"] as? [[String: Any]])
            for what in ["ring sojourn", "kick to pickup", "wake to pickup"] {
                let h = try #require(times.first { $0["what"] as? String == what }, "\(times)")
                let ns = try #require(h["nanoseconds"] as? [String: Int])
                #expect(h["queue"] as? Int == 1 && ns["count"]! > 0 && ns["p50"]! <= ns["p99"]!)
            }
        }
    }

    @Test("peer-latency --sweep: rates up to where both sides lose, table and a plot for each format, samples in order")
    func sweep() throws {
        let folder = Folder()
        let prefix = folder("sweep")
        let result = try object([
            "bench", "peer-latency", "--sweep", "--rates", "1M", "--step", "10", "--samples", "2", "--formats",
            "split,packed-in-order", "--burst", "4", "--json", "--output", prefix,
        ])
        let cases = try #require(result["cases"] as? [[String: Any]])
        for rings in ["split", "packed-in-order"] {
            let rates = cases.filter { $0["rings"] as? String == rings }.compactMap { $0["rate"] as? Double }
            #expect(rates.count >= 1 && zip(rates, rates.dropFirst()).allSatisfy { $1 == 10 * $0 }, "\(rates)")
            let plot = try String(contentsOfFile: "\(prefix)-\(rings).svg", encoding: .utf8)
            #expect(plot.contains("Ringway p99.9") && plot.contains("loses from"))
        }
        for c in cases {
            let sides = try #require(c["sides"] as? [[String: Any]])
            #expect(sides.first?["name"] as? String == "Ringway")
            #expect((sides.last?["name"] as? String)?.hasPrefix("DPDK 2") == true)
            for s in sides {
                let samples = try #require(s["samples"] as? [[String: Int]])
                #expect(samples.count == 2)
                let all = try #require(s["all"] as? [String: Int])
                let arrived = samples.reduce(0) { $0 + ($1["offered"] ?? 0) - ($1["lost"] ?? 0) }
                #expect(all["count"] == arrived)
                let stalled = samples.count { max($0["driver_stolen"] ?? 0, $0["device_stolen"] ?? 0) > 200_000 }
                #expect(s["marked"] as? Int == stalled)
            }
        }
        let table = try String(contentsOfFile: prefix + ".md", encoding: .utf8)
        // At 1, 10 or 100 million: where depends on the machine.
        #expect(table.contains("Ringway begins to lose at 1"), "\(table)")
    }

    @Test("peer-latency marks the samples in which another program had the device side's CPU, and keeps them")
    func marked() throws {
        // The second CPU that this process may use.
        let allowed = try Program("allowed", ["sh", "-c", "taskset -cp $$ | sed 's/.*: //; s/[,-].*//'"])
        #expect(allowed.wait() == 0)
        let first = try #require(Int(allowed.output.trimmingCharacters(in: .whitespacesAndNewlines)))
        let device = first + 1
        let busy = try Program(
            "busy", ["taskset", "-c", "\(device)", "sh", "-c", "echo ready; while :; do :; done"])
        defer { busy.end() }
        let result = try object([
            "bench", "peer-latency", "--formats", "split", "--samples", "3", "--seconds", "0.2", "--json",
        ])
        let sides = try #require((result["cases"] as? [[String: Any]])?.first?["sides"] as? [[String: Any]])
        for s in sides {
            #expect(s["marked"] as? Int == 3)
            #expect(((s["all"] as? [String: Int])?["count"] ?? 0) > 0)
            #expect((s["unmarked"] as? [String: Int])?["count"] == 0)
        }
    }

    @Test("compare --from: table and plot of the saved reports in docs, as they are there, without measuring")
    func redraw() throws {
        let folder = Folder()
        for (name, panels) in [
            ("2026-11-25", ["drop", "generate", "macswap", "crossconnect"]),
            ("2026-11-25-bursts", ["drop", "macswap"]),
        ] {
            let saved = "\(root)/docs/compare/\(name)"
            // Beside the report: what is written by hand above the table is kept.
            for ending in ["json", "md"] {
                try FileManager.default.copyItem(atPath: "\(saved).\(ending)", toPath: folder("\(name).\(ending)"))
            }
            for more in [[], ["--output", folder("other")]] {
                let program = try Program(
                    "compare", [Ringway.binary, "compare", "--from", folder("\(name).json")] + more)
                #expect(program.wait() == 0, "\(program.output)")
                let prefix = more.last ?? folder(name)
                let table = try String(contentsOfFile: prefix + ".md", encoding: .utf8)
                let plot = try String(contentsOfFile: prefix + ".svg", encoding: .utf8)
                let (oldTable, oldPlot) = (
                    try String(contentsOfFile: saved + ".md", encoding: .utf8),
                    try String(contentsOfFile: saved + ".svg", encoding: .utf8)
                )
                #expect(more.isEmpty ? table == oldTable : oldTable.hasSuffix(table), "\(name): \(table)")
                #expect(plot == oldPlot, "\(name)")
                for panel in panels { #expect(table.contains("| \(panel) |") && plot.contains(">\(panel)<")) }
                try FileManager.default.removeItem(atPath: prefix + ".md")
            }
            #expect(!FileManager.default.fileExists(atPath: folder("other.json")))
        }
    }

    @Test("compare --from says what is wrong with a file, and with options that would measure")
    func oddReports() throws {
        let folder = Folder()
        let whole = """
            {"machine":"m","peer":"p","seconds":1,"cases":[{"mode":"drop","rings":"split","bytes":"64","queues":1,\
            "burst":32,"sides":[]}]}
            """
        for (text, more, wanted, status) in [
            (nil, [], "/r.json: ", 1), ("nothing", [], "/r.json: no JSON; give the .json file", 1),
            ("{}", [], "no 'machine'", 1), (whole, [], "without Ringway", 1),
            (whole, ["--samples", "3"], "--samples: --from measures nothing", 64),
        ] as [(String?, [String], String, Int32)] {
            if let text { try text.write(toFile: folder("r.json"), atomically: true, encoding: .utf8) }
            let program = try Program("compare", [Ringway.binary, "compare", "--from", folder("r.json")] + more)
            #expect(program.wait() == status)
            #expect(
                program.output.contains(wanted) && program.output.split(separator: "\n").count == 1, "\(program.output)"
            )
        }
    }
}
