import CRingway
import Control
import Dataplane
import Logging
import Ringway
import Virtio

/// What a C call failed with: a code, and what there is to say.
struct CFailure: Error {
    let code: ringway_code
    let text: String

    init(_ code: ringway_code, _ text: String) {
        self.code = code
        self.text = text
    }
}

/// Runs a call of the C face and returns its code. `Engine`'s errors are `code`.
func answer(_ body: () throws -> Void) -> Int32 {
    do {
        try body()
        return RINGWAY_OK.rawValue
    } catch let failure as CFailure {
        CRingway_note(failure.text)
        return failure.code.rawValue
    } catch {
        CRingway_note("\(error)")
        return RINGWAY_ERROR_OPTIONS.rawValue
    }
}

/// The same where callbacks may not call.
func outsideAnswer(_ name: String, _ body: () throws -> Void) -> Int32 {
    answer {
        if CRingway_in_callback() != 0 {
            throw CFailure(RINGWAY_ERROR_CALLER, "\(name): called from a callback")
        }
        try body()
    }
}

/// What C holds: numbers that look like pointers. None is given twice, so that one that was freed is found out.
final class Handles: Sendable {
    static let all = Handles()

    private struct State {
        var next: UInt = 0x1000
        var objects: [UInt: any AnyObject & Sendable] = [:]
    }
    private let state = Locked(State())

    func add(_ object: any AnyObject & Sendable) -> OpaquePointer {
        state.withLock { state in
            state.next += 16
            state.objects[state.next] = object
            return OpaquePointer(bitPattern: state.next)!
        }
    }

    func find<T: AnyObject & Sendable>(_ handle: OpaquePointer?, _ type: T.Type, _ name: String) throws(CFailure) -> T {
        let key = UInt(bitPattern: handle)
        if let object = state.withLock({ $0.objects[key] }) as? T { return object }
        throw handle == nil
            ? CFailure(RINGWAY_ERROR_ARGUMENT, "\(name) is NULL")
            : CFailure(RINGWAY_ERROR_HANDLE, "\(name): never was, or freed already")
    }

    func remove(_ handle: OpaquePointer?) { state.withLock { $0.objects[UInt(bitPattern: handle)] = nil } }
}

/// An engine in the hands of C: calls for it wait for each other.
final class CEngine: Sendable {
    private let inner: Locked<InnerEngine>

    init(_ options: EngineOptions, _ function: CFunctionWishes?, _ logger: Logger) throws(EngineError) {
        inner = Locked(try InnerEngine(options, function, logger))
    }

    deinit { stop() }

    func start() throws(CFailure) { try inner.withLock { inner throws(CFailure) in try inner.start() } }

    func stop() { inner.withLock { $0.stop() } }

    func call(_ command: CCommand) throws(CFailure) {
        try inner.withLock { inner throws(CFailure) in try inner.call(command) }
    }

    func addresses() -> [TableAddress] { inner.withLock { $0.addresses } }

    /// Returns how many they were.
    func clearAddresses(port: Int?, vlan: UInt16?) throws(CFailure) -> Int32 {
        try inner.withLock { inner throws(CFailure) in try inner.clearAddresses(port: port, vlan: vlan) }
    }

    func stats() -> CStats { inner.withLock { $0.stats } }
}

/// The engine itself, and its function's states. One thread at a time.
private final class InnerEngine {
    private var isRunning = false
    private let function: CFunctionWishes?
    private let threads: Int
    private let ports: Int
    private var engine: Engine!
    private var contexts: [UnsafeMutablePointer<CContext>] = []

    init(_ options: EngineOptions, _ function: CFunctionWishes?, _ logger: Logger) throws(EngineError) {
        self.function = function
        ports = options.ports.count
        threads = options.threadCount
        if let function {
            engine = try Engine(options, logger: logger, wishes: function.wishes) { [unowned self] in
                CFunction(context: self.contexts[$0])
            }
        } else {
            engine = try Engine(options, logger: logger)
        }
    }

    func start() throws(CFailure) {
        if isRunning { throw CFailure(RINGWAY_ERROR_STATE, "the engine runs already") }
        do throws(CFailure) {
            try makeContexts()
            do throws(EngineError) { try engine.start() } catch {
                throw CFailure(RINGWAY_ERROR_START, "\(error)")
            }
        } catch {
            freeContexts()
            throw error
        }
        isRunning = true
    }

    func stop() {
        if !isRunning { return }
        engine.stop()
        isRunning = false
        freeContexts()
    }

    private func makeContexts() throws(CFailure) {
        guard let wishes = function else { return }
        let function = wishes.function
        for thread in 0..<threads {
            var state: UnsafeMutableRawPointer? = function.thread_init == nil ? function.user : nil
            if let make = function.thread_init {
                CRingway_enter(nil)
                let code = make(function.user, UInt32(thread), &state)
                CRingway_leave()
                if code != 0 {
                    throw CFailure(RINGWAY_ERROR_INIT, "thread_init of thread \(thread) returned \(code)")
                }
            }
            let context = UnsafeMutablePointer<CContext>.allocate(capacity: 1)
            context.initialize(to: CContext(wishes, state, thread: thread, ports: ports))
            contexts.append(context)
        }
    }

    private func freeContexts() {
        for (thread, context) in contexts.enumerated() {
            if let function = function?.function, let free = function.thread_free {
                CRingway_enter(nil)
                free(function.user, UInt32(thread), context.pointee.state)
                CRingway_leave()
            }
            context.deinitialize(count: 1)
            context.deallocate()
        }
        contexts = []
    }

    func call(_ command: CCommand) throws(CFailure) {
        if function == nil { throw CFailure(RINGWAY_ERROR_STATE, "the engine has no function of yours") }
        if !isRunning { throw CFailure(RINGWAY_ERROR_STATE, "the engine does not run") }
        do throws(EngineError) { try engine.send(command, to: CFunction.self) } catch {
            throw CFailure(RINGWAY_ERROR_STATE, "\(error)")
        }
    }

    var addresses: [TableAddress] { engine.macTable() }

    func clearAddresses(port: Int?, vlan: UInt16?) throws(CFailure) -> Int32 {
        if let port, port >= ports {
            throw CFailure(RINGWAY_ERROR_RANGE, "port \(port): there are \(ports)")
        }
        return Int32(clamping: engine.clearAddresses(port: port, vlan: vlan))
    }

    var stats: CStats { CStats(engine.snapshot(), engine.functionCounters()) }
}

/// Counters of one moment, with their names as C reads them.
final class CStats: Sendable {
    let ports: [PortSnapshot]
    let counters: [(name: String, count: UInt64)]
    /// All names one after the other, each with its 0, and where each begins.
    private let texts: OwnedTable<CChar>
    private let places: [String: Int]

    init(_ ports: [PortSnapshot], _ counters: [(name: String, count: UInt64)]) {
        (self.ports, self.counters) = (ports, counters)
        var bytes: [CChar] = []
        var places: [String: Int] = [:]
        let names = ports.map(\.name) + ports.flatMap { $0.drops.map(\.cause) } + counters.map(\.name)
        for name in names where places[name] == nil {
            places[name] = bytes.count
            bytes += name.utf8CString
        }
        texts = OwnedTable(bytes)
        self.places = places
    }

    /// One of the names, as long as this lives.
    func text(_ name: String) -> UnsafePointer<CChar> { UnsafePointer(texts.start + places[name]!) }
}

/// Hands what the engine has to tell to C.
struct CLog: LogHandler {
    let log: @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafePointer<CChar>?) -> Void
    /// Only handed on.
    nonisolated(unsafe) let user: UnsafeMutableRawPointer?
    var logLevel: Logger.Level
    var metadata: Logger.Metadata = [:]

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let all = metadata.merging(event.metadata ?? [:]) { $1 }
        let text = all.sorted { $0.key < $1.key }.reduce("\(event.message)") { "\($0) \($1.key)=\($1.value)" }
        let number = Logger.Level.allCases.firstIndex(of: event.level) ?? 0
        CRingway_enter(nil)
        log(user, Int32(number), text)
        CRingway_leave()
    }
}
