import ArgumentParser
import Console
import Glibc
import RingwayLab

/// A packet function on a capture file, without an engine.
struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay",
        abstract: "Put the frames of a capture file through a packet function; say what became of them.",
        discussion:
            "Reads and writes classic pcap files of Ethernet frames. Example:\n"
            + "  ringway replay in.pcap --function vlan-push=100 -w out.pcap"
    )

    @Argument(help: ArgumentHelp("The capture file.", valueName: "in.pcap"))
    var input: String

    @Option(help: ArgumentHelp("What judges the frames: \(ReplayFunction.names).", valueName: "name"))
    var function: String

    @Option(
        name: [.customShort("w"), .customLong("write")],
        help: ArgumentHelp("Writes what goes to any port, each packet once, at its time.", valueName: "out.pcap"))
    var output: String?

    @Option(help: ArgumentHelp("Port that the frames come from, from 0 on.", valueName: "n"))
    var port = 0

    @Option(help: ArgumentHelp("Ports that there are, 1 to 256.", valueName: "n"))
    var ports = 2

    func run() throws {
        check("--ports", ports, 1...256)
        check("--port", port, 0...ports - 1)
        guard let function = ReplayFunction(function) else {
            fail("--function \(function): there are \(ReplayFunction.names); an ID is 0 to 4095", status: 64)
        }
        checkFolder(of: output, "-w")
        if let output, isSameFile(input, output) { fail("-w \(output): the file that is read", status: 64) }
        Signals.handOver()
        var replay = Replay(ports: ports)
        do throws(CaptureError) {
            let reader = try CaptureReader(input)
            let writer = try output.map { path throws(CaptureError) in
                try CaptureWriter(path, isNanoseconds: reader.isNanoseconds)
            }
            try function.run(&replay, from: reader, port: port, to: writer) { Signals.haveCome }
            try writer?.close()
        } catch {
            // What there was before the defect was judged, and written.
            if replay.read.packets > 0 { show(replay) }
            fail(error.description)
        }
        show(replay)
        Signals.endIfCome()
    }

    private func show(_ replay: Replay) {
        for line in replay.table { print(line) }
        flush()
    }

    private func isSameFile(_ a: String, _ b: String) -> Bool {
        var (one, other) = (stat(), stat())
        guard stat(a, &one) == 0, stat(b, &other) == 0 else { return false }
        return one.st_dev == other.st_dev && one.st_ino == other.st_ino
    }
}
