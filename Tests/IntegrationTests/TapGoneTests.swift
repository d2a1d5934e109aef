import CPlatform
import Dataplane
import Foundation
import RingwayLab
import Testing
import Vhost

/// A port `tap:` whose interface is deleted, on this machine's kernel.
@Suite(
    .serialized, .enabled(if: getuid() == 0 && access("/dev/net/tun", R_OK | W_OK) == 0, "needs root and TAP devices"))
struct TapGoneTests {
    private func shell(_ command: String) throws {
        let status = try Program("sh", ["bash", "-c", command]).wait()
        guard status == 0 else { throw Unexpected("\(command): \(status.map(String.init) ?? "nothing")") }
    }

    /// Frames that the kernel took from Ringway, by its own count.
    private func taken(_ name: String) throws -> Int {
        let path = "/sys/class/net/\(name)/statistics/rx_packets"
        let text = try String(contentsOfFile: path, encoding: .utf8)
        return Int(text.trimmingCharacters(in: .whitespacesAndNewlines)) ?? -1
    }

    /// Sends broadcasts of a type that nobody answers; true when the port has dealt with all.
    private func send(_ d: EmbeddedDriver, _ count: Int) -> Bool {
        let frame =
            [UInt8](repeating: 0xff, count: 6) + [2, 0, 0, 0, 0, 1, 0x88, 0xb5] + [UInt8](repeating: 7, count: 50)
        var left = count
        let end = deadline(5)
        while now < end {
            let n = d.pairs[0].prepare(min(DriverPair.burst, left))
            for k in 0..<n {
                let out = d.pairs[0].outgoing.start + k
                out.pointee.length = UInt32(frame.count)
                CPlat_zero(out.pointee.base - 12, 12)
                frame.withUnsafeBytes { out.pointee.base.copyMemory(from: $0.baseAddress!, byteCount: frame.count) }
            }
            if n > 0 { d.pairs[0].send(n) }
            left -= n
            d.pairs[0].reclaim()
            if left == 0 && d.pairs[0].outstanding == 0 { return true }
            usleep(200)
        }
        return false
    }

    /// Whether an ARP request comes from the interface, which asks for one of its neighbours.
    private func hears(_ d: EmbeddedDriver, _ name: String) throws -> Bool {
        try shell("ip addr replace 10.213.7.1/24 dev \(name); echo x > /dev/udp/10.213.7.2/9 || true")
        let end = deadline(10)
        while now < end {
            var isThere = false
            let n = d.pairs[0].receiveBurst()
            for k in 0..<n {
                let p = d.pairs[0].incoming[k].base
                if p.load(fromByteOffset: 12, as: UInt8.self) == 8 && p.load(fromByteOffset: 13, as: UInt8.self) == 6 {
                    isThere = true
                }
            }
            d.pairs[0].giveBack()
            if isThere { return true }
            usleep(1000)
        }
        return false
    }

    @Test(
        """
        a TAP that is deleted: the port says so and counts nothing as sent, and comes back, both ways, each time that \
        there is one of its name again
        """)
    func comesBack() throws {
        let f = Folder()
        let name = "rwback\(getpid() % 10000)"
        let ringway = try Ringway(["tap:\(name)", "vhost-user:\(f("a"))"], mode: "crossconnect")
        defer { _ = try? Program("sh", ["sh", "-c", "ip link del \(name) 2>/dev/null"]).wait() }
        let d = try EmbeddedDriver(path: f("a"))
        try shell("ip link set \(name) up")
        #expect(send(d, 50))
        #expect(try taken(name) == 50)
        #expect(try hears(d, name))
        for life in 1...2 {
            let mark = ringway.log.count
            try shell("ip link del \(name)")
            // Before the port knows, and after.
            #expect(send(d, 30), "life \(life)")
            _ = try ringway.program.wait(for: "the interface has gone", after: mark)
            #expect(send(d, 30), "life \(life)")
            try shell("ip tuntap add \(name) mode tap vnet_hdr")
            _ = try ringway.program.wait(for: "interface \(name) with 1 queue", after: mark)
            try shell("ip link set \(name) up")
            #expect(send(d, 50), "life \(life)")
            #expect(try taken(name) == 50, "life \(life)")
            #expect(try hears(d, name), "life \(life)")
        }
        let totals = try ringway.totals()
        #expect(totals[0].isConnected && totals[0].port == "tap:\(name)")
        #expect(totals[0].txPackets == 150, "of 270, 120 came while there was no interface: \(totals)")
        #expect(totals[1].rxPackets == 270)
        #expect(totals.flatMap(\.drops.values).reduce(0, +) >= 120, "\(totals)")
    }

    @Test("a TAP's descriptor that it was started with (tap:fd=N): frames go both ways, until its interface is deleted")
    func handed() throws {
        let f = Folder()
        let name = "rwfd\(getpid() % 10000)"
        let tap = try Tap(name: name)
        let number = fcntl(tap.queues[0].fd, F_DUPFD, 200)
        let ringway = try Ringway(["tap:fd=\(number)", "vhost-user:\(f("a"))"], mode: "crossconnect")
        close(number)
        let d = try EmbeddedDriver(path: f("a"))
        try shell("ip link set \(name) up")
        #expect(send(d, 50))
        #expect(try taken(name) == 50)
        #expect(try hears(d, name))
        try shell("ip link del \(name)")
        _ = try ringway.program.wait(for: "its descriptor is of no use any more")
        #expect(send(d, 30))
        let totals = try ringway.totals()
        #expect(!totals[0].isConnected && totals[0].port == "tap:fd=\(number)" && totals[0].txPackets == 50)
        withExtendedLifetime(tap) {}
    }
}
