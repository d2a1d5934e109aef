import CPlatform
import Foundation
import Logging
import Operation
import Ringway
import RingwayLab

/// An engine without ports under a control socket, in a folder of its own.
final class ControlLab {
    let engine: Engine
    let op: Operator
    let folder: String
    let path, readPath: String

    /// `change` has the settings, and the lab's folder.
    init(_ mode: ForwardingMode = .switch, threads: Int = 1, change: (inout Settings, String) -> Void = { _, _ in })
        throws
    {
        var template = Array("/tmp/ringway-control-XXXXXX".utf8CString)
        folder = String(cString: mkdtemp(&template))
        (path, readPath) = (folder + "/ctl", folder + "/read")
        var options = EngineOptions(ports: [], mode: mode)
        options.mostPorts = 64
        options.unpinnedThreads = threads
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        engine = try Engine(options, logger: logger)
        try engine.start()
        var settings = Settings(options, texts: [])
        (settings.control, settings.controlRead) = (SocketPlace(path), SocketPlace(readPath))
        settings.controlRead?.access.mode = 0o666
        change(&settings, folder)
        op = Operator(engine, settings) { Double(CPlat_monotonic_ns()) / 1e9 }
        try op.start()
    }

    deinit {
        op.stop()
        engine.stop()
        rmdir(folder)
    }
}

extension EmbeddedDriver {
    /// Sends one broadcast frame of so many bytes.
    func send(_ length: Int) throws {
        let out = pairs[0].outgoing.start
        while pairs[0].prepare(1) == 0 { sched_yield() }
        out.pointee.length = UInt32(length)
        memset(out.pointee.base - 12, 0, 12 + length)
        memset(out.pointee.base, 0xff, 6)
        out.pointee.base.storeBytes(of: 2, toByteOffset: 6, as: UInt8.self)
        pairs[0].send(1)
    }

    /// The length of the next frame, which has to come.
    func receive() throws -> Int {
        while true {
            let n = pairs[0].receiveBurst()
            let length = n > 0 ? Int(pairs[0].incoming[0].length) : 0
            pairs[0].giveBack()
            if n > 0 { return length }
            sched_yield()
        }
    }
}
