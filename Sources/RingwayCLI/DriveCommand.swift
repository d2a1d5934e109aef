import ArgumentParser
import CPlatform
import Console
import Glibc
import Ringway
import RingwayLab

/// An embedded driver on somebody's back-end: a packet generator and sink.
struct DriveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drive",
        abstract: "Connect an embedded virtio driver to a vhost-user socket; send and receive as fast as it goes.",
        discussion:
            "Example, with a back-end such as `ringway forward --mode macswap` on the socket:\n"
            + "  ringway drive /run/vm1.sock --size 64 --seconds 5"
    )

    @Argument(help: "Path of the back-end's socket.")
    var socket: String

    @Option(
        help: ArgumentHelp("Frame size without CRC; with --receive-only the longest that comes.", valueName: "bytes"))
    var size = 64

    @Option(help: ArgumentHelp("How long.", valueName: "seconds"))
    var seconds = 3

    @Option(help: "Frames of a burst, 1 to 64.")
    var burst = 32

    @Option(help: ArgumentHelp("NUMA node for the driver's memory (default: any).", valueName: "node"))
    var node: Int?

    @Option(help: ArgumentHelp("CPU for the driver (default: any).", valueName: "cpu"))
    var cpu: Int?

    @Option(help: ArgumentHelp("Descriptors of each ring.", valueName: "entries"))
    var ringSize: UInt32 = 1024

    @Flag(help: "Packed rings.")
    var packed = false

    @Flag(help: "IN_ORDER, where the back-end has it.")
    var inOrder = false

    @Flag(help: "Receive only.")
    var receiveOnly = false

    @Flag(help: "JSON objects, one a line.")
    var json = false

    private struct Connection: Encodable {
        var type = "connected"
        var memory: String
        var features: [String]
    }

    private struct Second: Encodable {
        var type = "second"
        var second: Int
        var sent: UInt64
        var received: UInt64
        var sentMpps: Double
        var receivedMpps: Double
    }

    func run() throws {
        check("--size", size, 60...9216, "bytes")
        check("--burst", burst, 1...DriverPair.burst)
        check("--seconds", seconds, 1...3600)
        if receiveOnly { refuse("--burst", because: "is the sender's; --receive-only sends nothing") }
        guard RingLayout.isValid(size: ringSize, isPacked: packed) else {
            fail("--ring-size \(ringSize): 2 to 32768, a power of two for split rings", status: 64)
        }
        if let node, !(0..<NUMA.nodes).contains(node) {
            fail("--node \(node): this machine has nodes 0 to \(NUMA.nodes - 1)", status: 64)
        }
        var options = DriverOptions()
        options.ringSize = ringSize
        options.isPacked = packed
        options.isInOrder = inOrder
        options.frameRoom = max(2048, size)
        options.node = node ?? -1
        if let cpu, CPlat_pin_to_cpu(Int32(clamping: cpu)) != 0 {
            fail("--cpu \(cpu): \(Bench.allowedText)", status: 64)
        }
        do throws(EngineError) {
            let driver = try EmbeddedDriver(path: socket, options)
            Signals.handOver()
            let features = driver.frontEnd.features.bitNames
            if json {
                printJSON(Connection(memory: driver.memory.summary, features: features))
            } else {
                print("connected; memory: \(driver.memory.summary); features: \(features.joined(separator: " "))")
            }
            drive(driver)
            if json { Signals.printMark() }
            try driver.stop()
        } catch {
            fail(error.description)
        }
    }

    private func drive(_ driver: EmbeddedDriver) {
        let flows = [Load.Flow(from: driver.pairs, to: driver.pairs)]
        if !receiveOnly { Load.prepare(flows, size: size) }
        if !json { print("  second      sent Mpps  received Mpps") }
        for second in 1...seconds where !Signals.haveCome {
            var counts = [Load.Count()]
            let start = CPlat_monotonic_ns()
            Load.saturate(
                flows, size: size, burst: burst, until: start + 1_000_000_000, counts: &counts, sends: !receiveOnly)
            let c = counts[0]
            if json {
                printJSON(
                    Second(
                        second: second, sent: c.sent, received: c.received, sentMpps: c.sentMpps.rounded(digits: 6),
                        receivedMpps: c.mpps.rounded(digits: 6)))
            } else {
                print(
                    "  " + Text.right("\(second)", 6) + Text.right(Text.number(c.sentMpps, 3), 15)
                        + Text.right(Text.number(c.mpps, 3), 15))
                flush()
            }
        }
        if !receiveOnly { Load.settle(flows[0]) }
    }
}
