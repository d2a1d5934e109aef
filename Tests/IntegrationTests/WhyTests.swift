import Foundation
import Testing

/// `ringway why`, and what the log says of queues that stand still, with drivers that really do.
@Suite(.serialized) struct WhyTests {
    private let folder = Folder()

    private func why(_ words: [String]) throws -> String {
        let program = try Program("why", [Ringway.binary, "why"] + words + ["--control", folder("c")])
        guard program.wait() == 0 else { throw Unexpected("why \(words): \(program.output)") }
        return program.output
    }

    /// Asks until the answer has `text`.
    @discardableResult
    private func wait(for text: String, _ words: [String], meanwhile work: () throws -> Void = {}) throws -> String {
        let end = deadline(60)
        while true {
            let output = try why(words)
            if output.contains(text) { return output }
            if now > end { throw Unexpected("no '\(text)' in: \(output)") }
            try work()
            usleep(100_000)
        }
    }

    @Test("DPDK's driver that stops polling: in why, and in the log once; and when it goes on")
    func polling() throws {
        let ringway = try Ringway(
            ["null:source,emit=60,rate_in=10kpps", "vhost-user:\(folder("p"))"], mode: "switch",
            ["--control", folder("c")])
        #expect(try why([folder("p")]).contains("nobody is at the other end"))
        let testpmd = try Testpmd(folder("p"), forward: "rxonly", options: "packed_vq=0,mrg_rxbuf=1")
        try wait(for: "(receive): packets move", [folder("p") + "/0"])
        #expect(try why([]) == "no queue stands still\n")
        kill(testpmd.program.pid, SIGSTOP)
        let line = try wait(for: "its driver wants no calls, and does not look by itself", [folder("p") + "/0"])
        #expect(line.hasPrefix("\(folder("p")) queue 0 (receive): ") && line.contains("see whether its program runs"))
        #expect(try why([]).hasPrefix("\(folder("p")) queue 0 (receive): "))
        _ = try ringway.program.wait(for: "does not look by itself, for ")
        kill(testpmd.program.pid, SIGCONT)
        _ = try ringway.program.wait(for: "\(folder("p")) queue 0 (receive) goes on: packets move")
        #expect(ringway.log.components(separatedBy: "does not look by itself").count == 2)
        #expect(testpmd.quit() == 0)
        _ = try wait(for: "nobody is at the other end", [folder("p")])
        _ = try ringway.totals()
    }

    @Test("a QEMU guest that is stopped, one whose interface is down, and one that has gone")
    func guest() throws {
        let ringway = try Ringway(
            ["null:source,emit=60,rate_in=1kpps", "vhost-user:\(folder("p")),queues=2"], mode: "switch",
            ["--control", folder("c")])
        let qmp = folder("q")
        let guest = try Guest("guest", [.init(socket: folder("p"), mac: "52:54:00:00:00:0a", queues: 2)], qmp: qmp)
        try guest.ready()
        try guest.configure("10.0.0.1")
        try wait(for: "(receive): packets move", [folder("p") + "/0"])
        // Its driver may be between two looks when it is stopped: then it wants no calls. So again until it is not.
        let pid = guest.pid
        try wait(for: "its driver was called, and has not looked at the ring since", [folder("p")]) {
            kill(pid, SIGCONT)
            usleep(200_000)
            kill(pid, SIGSTOP)
            sleep(2)
        }
        kill(pid, SIGCONT)
        try wait(for: "(receive): packets move", [folder("p") + "/0"])
        // QEMU itself stops the rings of a guest that is paused.
        let machine = try QMP(qmp)
        try machine.run("stop")
        try wait(for: "the front-end is there, but has not started this ring", [folder("p") + "/0"])
        try machine.run("cont")
        try wait(for: "(receive): packets move", [folder("p") + "/0"])
        try guest.run("ip link set eth0 down")
        try wait(for: "(receive): its driver was called, and has not looked", [folder("p") + "/0"])
        let trace = try Program("trace", [Ringway.binary, "trace", folder("p") + "/0", "--control", folder("c")])
        #expect(trace.wait() == 0)
        // Booted, stopped, went on, paused, went on, down.
        let events = ["nobody is", "has not looked", "has not started this ring", "has not looked"]
        var rest = trace.output[...]
        for event in events {
            let place = try #require(rest.range(of: event), "no '\(event)' in its order: \(trace.output)")
            rest = rest[place.upperBound...]
        }
        guest.kill()
        try wait(for: "nobody is at the other end", [folder("p") + "/0"])
        _ = try ringway.totals()
    }
}
