import Foundation
import Testing

/// A guest that moves from one QEMU to another under TCP, on vhost-user ports of Ringway, or of two: where the guest
/// is then, the switches learn from its announcements.
@Suite(.serialized) struct LiveMigration {
    /// How often a guest moves; `RINGWAY_MIGRATIONS` says another number.
    private static let moves = ProcessInfo.processInfo.environment["RINGWAY_MIGRATIONS"].flatMap { Int($0) } ?? 2

    @Test(
        "a guest that sends and receives TCP moves from QEMU to QEMU and back, of the same Ringway and of another",
        arguments: [(isPacked: false, hasAnother: true), (isPacked: true, hasAnother: false)])
    func backAndForth(isPacked: Bool, hasAnother: Bool) throws {
        let folder = Folder()
        func port(_ name: String) -> String { "vhost-user:\(folder(name)),queues=2" }
        let ringway = try Ringway(["a", "peer", hasAnother ? "link" : "b"].map(port), mode: "switch")
        let another =
            hasAnother ? try Ringway([port("b"), "virtio-user:\(folder("link")),queues=2"], mode: "switch") : nil
        func guest(_ move: Int) throws -> Guest {
            let nic = Guest.NIC(
                socket: folder(move % 2 == 0 ? "a" : "b"), mac: "52:54:00:00:00:0a", queues: 2, isPacked: isPacked)
            return try Guest(
                "guest-\(move)", [nic], cpus: 2, qmp: folder("qmp\(move)"),
                incoming: move > 0 ? folder("in\(move)") : nil)
        }
        let peer = try Guest(
            "guest-peer", [.init(socket: folder("peer"), mac: "52:54:00:00:00:0b", queues: 2, isPacked: isPacked)],
            cpus: 2)
        var current = try guest(0)
        try boot(current, peer)
        try current.configure("10.0.0.1")
        try peer.configure("10.0.0.2")
        try peer.serve()
        #expect(try current.loss(to: "10.0.0.2", count: 3) == 0)
        let seconds = 10 + 10 * LiveMigration.moves
        try current.run("(iperf3 -c 10.0.0.2 --bidir -t \(seconds) >/tmp/iperf 2>&1; echo $? >/tmp/status) &")
        for move in 1...LiveMigration.moves {
            let next = try guest(move)
            let (from, to) = (try QMP(folder("qmp\(move - 1)")), try QMP(folder("qmp\(move)")))
            try from.run("migrate-set-parameters", "{\"max-bandwidth\":1000000000,\"downtime-limit\":1000}")
            try from.run("migrate", "{\"uri\":\"unix:\(folder("in\(move)"))\"}")
            let end = deadline(60)
            var state = ""
            while now < end && !state.contains("\"completed\"") {
                state = try from.run("query-migrate")
                if state.contains("\"failed\"") { throw Unexpected("move \(move): \(state)\n\(next.output)") }
                usleep(50_000)
            }
            #expect(state.contains("\"completed\""), "move \(move): \(state)")
            try to.run("query-status")
            current.kill()
            current = next
            do { #expect(try current.loss(to: "10.0.0.2", count: 5) == 0, "after move \(move)") } catch {
                // Whether its processors, its network or its console alone do not go on.
                let processors = try to.run(
                    "human-monitor-command", "{\"command-line\":\"info registers -a\"}")
                let loss = try peer.loss(to: "10.0.0.1", count: 5)
                throw Unexpected(
                    """
                    after move \(move): \(error)
                    the peer loses \(loss) % of its pings; \(try to.run("query-status")) \(ringway.log.suffix(1000))
                    \(processors)
                    """)
            }
            #expect(try peer.loss(to: "10.0.0.1", count: 5) == 0, "after move \(move)")
        }
        try current.run("while ! test -s /tmp/status; do sleep 0.2; done", seconds: Double(seconds) + 60)
        let result = try current.run("cat /tmp/iperf /tmp/status")
        #expect(result.hasSuffix("0\r\n"), "\(result)")
        #expect(ringway.complaints == [] && another?.complaints ?? [] == [])
        let there = try another?.totals()[0]
        let totals = try ringway.totals()
        #expect((totals + [there ?? totals[2]]).allSatisfy { $0.rxPackets > 100 }, "\(totals)")
    }
}
