import CRingway
import Dataplane
import Logging
import Ringway
import Virtio

/// Copies a struct that C wrote over one of zeros: it may be of an older header, and so shorter, or of a newer one that
/// asks for nothing new. `least`: bytes that the first header had.
private func read<T: BitwiseCopyable>(_ from: UnsafePointer<T>, into: inout T, least: Int, _ name: String)
    throws(CFailure)
{
    let bytes = UnsafeRawPointer(from)
    let size = Int(clamping: bytes.load(as: UInt.self))
    let known = MemoryLayout<T>.size
    if size < least || size > 4096 {
        throw CFailure(RINGWAY_ERROR_SIZE, "\(name): size is \(size); set it to sizeof(\(name))")
    }
    for i in known..<max(known, size) where bytes.load(fromByteOffset: i, as: UInt8.self) != 0 {
        throw CFailure(RINGWAY_ERROR_SIZE, "\(name): it asks for what only a later library has")
    }
    withUnsafeMutableBytes(of: &into) { $0.baseAddress!.copyMemory(from: bytes, byteCount: min(size, known)) }
}

/// Gives C a struct, as much of it as it has room for.
func write<T: BitwiseCopyable>(_ value: T, to: UnsafeMutablePointer<T>) -> ringway_code {
    let bytes = UnsafeMutableRawPointer(to)
    let size = bytes.load(as: UInt.self)
    if size < 2 * MemoryLayout<UInt>.size || size > 4096 { return RINGWAY_ERROR_SIZE }
    let word = MemoryLayout<UInt>.size
    withUnsafeBytes(of: value) {
        let n = min(Int(size), MemoryLayout<T>.size)
        (bytes + word).copyMemory(from: $0.baseAddress! + word, byteCount: n - word)
    }
    return RINGWAY_OK
}

private func names(_ list: UnsafePointer<UnsafePointer<CChar>?>?, _ count: UInt32, _ name: String) throws(CFailure)
    -> [String]
{
    if count == 0 { return [] }
    guard let list else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "\(name) is NULL") }
    if count > 64 { throw CFailure(RINGWAY_ERROR_RANGE, "\(name): \(count); at most 64 are possible") }
    var all: [String] = []
    for i in 0..<Int(count) {
        guard let text = list[i] else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "\(name)[\(i)] is NULL") }
        all.append(String(cString: text))
    }
    return all
}

private func mode(_ text: String) throws(CFailure) -> ForwardingMode {
    let modes: [String: ForwardingMode] = [
        "switch": .switch, "crossconnect": .crossconnect, "macswap": .macswap, "drop": .drop,
    ]
    if let mode = modes[text] { return mode }
    if text.hasPrefix("generate="), let size = Int(text.dropFirst(9)) { return .generate(size: size) }
    throw CFailure(
        RINGWAY_ERROR_OPTIONS, "mode \(text): write switch, crossconnect, macswap, drop or generate=BYTES")
}

private func logger(_ options: ringway_options) throws(CFailure) -> Logger {
    guard let log = options.log else { return Logger(label: "ringway") { _ in SwiftLogNoOpLogHandler() } }
    let levels = Logger.Level.allCases
    if options.log_level >= levels.count {
        throw CFailure(RINGWAY_ERROR_RANGE, "log_level: \(options.log_level); a ringway_level")
    }
    let handler = CLog(log: log, user: options.log_user, logLevel: levels[Int(options.log_level)])
    return Logger(label: "ringway") { _ in handler }
}

/// The function and what it wishes.
private func function(_ from: UnsafePointer<ringway_function>) throws(CFailure) -> CFunctionWishes {
    var function = ringway_function()
    let least = MemoryLayout<ringway_function>.offset(of: \.tick)!
    try read(from, into: &function, least: least, "ringway_function")
    if function.process == nil { throw CFailure(RINGWAY_ERROR_ARGUMENT, "function->process is NULL") }
    if function.flags & ~UInt32(RINGWAY_JUDGES_AGAIN) != 0 || function.reserved != 0 {
        throw CFailure(RINGWAY_ERROR_OPTIONS, "function->flags or reserved: unknown bits")
    }
    let own = try names(function.drop_causes, function.drop_cause_count, "drop_causes")
    let (causes, firstRegistered) = try CCauses.places(after: own)
    let wishes = FunctionWishes(
        frontBytes: Int(function.front_bytes), judgesAgain: function.flags & UInt32(RINGWAY_JUDGES_AGAIN) != 0,
        dropCauses: causes,
        counters: try names(function.counters, function.counter_count, "counters"),
        tickMicroseconds: Int(function.tick_microseconds))
    // The names are C's: they are not looked at again.
    (function.drop_causes, function.counters) = (nil, nil)
    return CFunctionWishes(
        function: function, wishes: wishes, causes: own.count, firstRegistered: firstRegistered)
}

private func makeEngine(
    _ ports: UnsafePointer<UnsafePointer<CChar>?>?, _ count: Int, _ options: UnsafePointer<ringway_options>?
) throws -> CEngine {
    guard let options else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "options is NULL") }
    guard let ports else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "ports is NULL") }
    if !(1...1024).contains(count) {
        throw CFailure(RINGWAY_ERROR_RANGE, "port_count: \(count); 1 to 1024 are possible")
    }
    var given = ringway_options()
    let least = MemoryLayout<ringway_options>.offset(of: \.cpus)!
    try read(options, into: &given, least: least, "ringway_options")
    if given.reserved != 0 { throw CFailure(RINGWAY_ERROR_OPTIONS, "options->reserved is not 0") }
    var all: [PortOptions] = []
    for i in 0..<count {
        guard let text = ports[i] else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "ports[\(i)] is NULL") }
        all.append(try PortSyntax.port(String(cString: text)))
    }
    if (given.mode == nil) == (given.function == nil) {
        throw CFailure(RINGWAY_ERROR_OPTIONS, "options: either a mode or a function")
    }
    var own: CFunctionWishes?
    if let from = given.function { own = try function(from) }
    var o = EngineOptions(ports: all, mode: .drop)
    if let text = given.mode { o.mode = try mode(String(cString: text)) }
    if let text = given.cpus { o.cpus = try PortSyntax.cpus(String(cString: text)) }
    if given.unpinned_threads > 0 { o.unpinnedThreads = Int(given.unpinned_threads) }
    if given.mac_ageing > 0 { o.macAgeing = Int(given.mac_ageing) }
    if let text = given.busyloop { o.busyloop = try PortSyntax.busyloop(String(cString: text)) }
    if let text = given.pacing { o.pacing = try PortSyntax.pacing(String(cString: text)) }
    return try CEngine(o, own, try logger(given))
}

@c @implementation
public func ringway_engine_new(
    _ ports: UnsafePointer<UnsafePointer<CChar>?>!, _ port_count: Int, _ options: UnsafePointer<ringway_options>!,
    _ engine: UnsafeMutablePointer<OpaquePointer?>!
) -> Int32 {
    engine?.pointee = nil
    return outsideAnswer("ringway_engine_new") {
        guard let engine else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "engine is NULL") }
        engine.pointee = Handles.all.add(try makeEngine(ports, port_count, options))
    }
}

@c @implementation
public func ringway_engine_start(_ engine: OpaquePointer!) -> Int32 {
    outsideAnswer("ringway_engine_start") { try Handles.all.find(engine, CEngine.self, "engine").start() }
}

@c @implementation
public func ringway_engine_stop(_ engine: OpaquePointer!) -> Int32 {
    outsideAnswer("ringway_engine_stop") { try Handles.all.find(engine, CEngine.self, "engine").stop() }
}

@c @implementation
public func ringway_engine_free(_ engine: OpaquePointer!) -> Int32 {
    outsideAnswer("ringway_engine_free") {
        if engine == nil { return }
        let object = try Handles.all.find(engine, CEngine.self, "engine")
        Handles.all.remove(engine)
        object.stop()
    }
}

@c @implementation
public func ringway_engine_call(
    _ engine: OpaquePointer!,
    _ call: (@convention(c) (UnsafeMutableRawPointer?, UInt32, UnsafeMutableRawPointer?) -> Void)!,
    _ argument: UnsafeMutableRawPointer!
) -> Int32 {
    outsideAnswer("ringway_engine_call") {
        guard let call else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "call is NULL") }
        let object = try Handles.all.find(engine, CEngine.self, "engine")
        try object.call(CCommand(call: call, argument: argument))
    }
}

// MARK: Statistics

@c @implementation
public func ringway_engine_stats(_ engine: OpaquePointer!, _ stats: UnsafeMutablePointer<OpaquePointer?>!) -> Int32 {
    stats?.pointee = nil
    return outsideAnswer("ringway_engine_stats") {
        guard let stats else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "stats is NULL") }
        stats.pointee = Handles.all.add(try Handles.all.find(engine, CEngine.self, "engine").stats())
    }
}

@c @implementation
public func ringway_stats_free(_ stats: OpaquePointer!) -> Int32 {
    outsideAnswer("ringway_stats_free") {
        if stats == nil { return }
        _ = try Handles.all.find(stats, CStats.self, "stats")
        Handles.all.remove(stats)
    }
}

@c @implementation
public func ringway_stats_ports(_ stats: OpaquePointer!) -> Int32 {
    var n: Int32 = 0
    let code = outsideAnswer("ringway_stats_ports") {
        n = Int32(try Handles.all.find(stats, CStats.self, "stats").ports.count)
    }
    return code < 0 ? code : n
}

private func find(_ stats: OpaquePointer?, port: UInt32) throws(CFailure) -> CStats {
    let object = try Handles.all.find(stats, CStats.self, "stats")
    if port >= object.ports.count {
        throw CFailure(RINGWAY_ERROR_RANGE, "port \(port): there are \(object.ports.count)")
    }
    return object
}

@c @implementation
public func ringway_stats_port(
    _ stats: OpaquePointer!, _ port: UInt32, _ out: UnsafeMutablePointer<ringway_port_stats>!
) -> Int32 {
    outsideAnswer("ringway_stats_port") {
        guard let out else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "out is NULL") }
        let object = try find(stats, port: port)
        let from = object.ports[Int(port)]
        var s = ringway_port_stats()
        s.name = object.text(from.name)
        (s.rx_packets, s.rx_bytes) = (from.rx.packets, from.rx.bytes)
        (s.tx_packets, s.tx_bytes) = (from.tx.packets, from.tx.bytes)
        s.drops = from.drops.reduce(0) { $0 &+ $1.count }
        (s.flooded, s.made, s.consumed) = (from.flooded, from.made, from.consumed)
        s.is_connected = from.isConnected ? 1 : 0
        s.drop_causes = UInt32(from.drops.count)
        let code = write(s, to: out)
        if code != RINGWAY_OK { throw CFailure(code, "out->size: set it to sizeof(ringway_port_stats)") }
    }
}

@c @implementation
public func ringway_stats_drop(
    _ stats: OpaquePointer!, _ port: UInt32, _ entry: UInt32, _ cause: UnsafeMutablePointer<UnsafePointer<CChar>?>!,
    _ packets: UnsafeMutablePointer<UInt64>!
) -> Int32 {
    outsideAnswer("ringway_stats_drop") {
        guard let cause, let packets else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "cause or packets is NULL") }
        let object = try find(stats, port: port)
        let drops = object.ports[Int(port)].drops
        if entry >= drops.count { throw CFailure(RINGWAY_ERROR_RANGE, "entry \(entry): there are \(drops.count)") }
        cause.pointee = object.text(drops[Int(entry)].cause)
        packets.pointee = drops[Int(entry)].count
    }
}

@c @implementation
public func ringway_stats_counter(
    _ stats: OpaquePointer!, _ counter: UInt32, _ name: UnsafeMutablePointer<UnsafePointer<CChar>?>!,
    _ count: UnsafeMutablePointer<UInt64>!
) -> Int32 {
    outsideAnswer("ringway_stats_counter") {
        guard let name, let count else { throw CFailure(RINGWAY_ERROR_ARGUMENT, "name or count is NULL") }
        let object = try Handles.all.find(stats, CStats.self, "stats")
        if counter >= object.counters.count {
            throw CFailure(RINGWAY_ERROR_RANGE, "counter \(counter): there are \(object.counters.count)")
        }
        name.pointee = object.text(object.counters[Int(counter)].name)
        count.pointee = object.counters[Int(counter)].count
    }
}
