import Console
import Foundation

/// A parameter by its name, what may be written there, and whether it has to be.
package typealias MethodMember = (name: String, allowed: String, isWanted: Bool)

/// What the control socket can be asked for: docs/control.md.
package protocol ControlMethod {
    associatedtype Params: Codable
    associatedtype Answer: Codable
    static var name: String { get }
    /// It changes nothing, and so is for the socket for reading, too.
    static var isReading: Bool { get }
    static var members: [MethodMember] { get }
}

extension ControlMethod {
    package static var isReading: Bool { false }
    package static var members: [MethodMember] { [] }
}

/// No members.
package struct Nothing: Codable, Sendable { package init() {} }

/// `Methods` has a `LogLevel` of its own.
private let levelNames = LogLevel.names

/// The methods.
package enum Methods {
    private static let portName = "the name of a port, as port.list has it"

    package enum Version: ControlMethod {
        package static let name = "version"
        package static var isReading: Bool { true }
        package typealias Params = Nothing
        package struct Answer: Codable, Sendable {
            package var version: String
            /// Grows when something that was there changes its meaning.
            package var api: Int
            package var pid: Int
        }
    }

    /// A port as it is now.
    package struct Port: Codable, Sendable {
        package var name: String
        /// As `--port` takes it.
        package var port: String
        package var place: Int
        package var up: Bool
        package var connected: Bool
        package var queues: Int
        package var mtu: Int?
        package var mac: String?
        /// That serve its pairs, by their numbers.
        package var threads: [Int]
    }

    package enum ListPorts: ControlMethod {
        package static let name = "port.list"
        package static var isReading: Bool { true }
        package typealias Params = Nothing
        package struct Answer: Codable, Sendable { package var ports: [Port] }
    }

    package enum AddPort: ControlMethod {
        package static let name = "port.add"
        package static var members: [MethodMember] {
            [("port", "what `--port` takes, as in \"vhost-user:/run/vm1.sock,queues=2\"", true)]
        }
        package struct Params: Codable, Sendable {
            package var port: String
            package init(port: String) { self.port = port }
        }
        package typealias Answer = Port
    }

    package enum RemovePort: ControlMethod {
        package static let name = "port.remove"
        package static var members: [MethodMember] {
            [("name", portName, true)]
        }
        package struct Params: Codable, Sendable {
            package var name: String
            package init(name: String) { self.name = name }
        }
        /// What it counted since it was added.
        package typealias Answer = PeriodRecord.Port
    }

    package enum SetPort: ControlMethod {
        package static let name = "port.set"
        package static var members: [MethodMember] {
            [
                ("name", portName, true), ("up", "true or false", false),
                ("busyloop", "\"poll\", \"auto\", \"0\", or microseconds as in \"50us\"", false),
                ("mtu", "bytes, 68 to 65535", false), ("announce", "true", false),
                ("threads", "a list of numbers of poll threads, from 0", false),
                ("cpus", "a list of CPUs that poll threads are pinned to", false),
                ("options", "text as in \"threads=0+1,rate_in=1gbit,storm=\"", false),
            ]
        }
        package struct Params: Codable, Sendable {
            package var name: String
            package var up: Bool?
            package var busyloop: String?
            package var mtu: Int?
            package var announce: Bool?
            package var threads: [Int]?
            package var cpus: [Int]?
            /// As `--port` takes them; one with an empty value is taken away.
            package var options: String?
            package init(
                name: String, up: Bool? = nil, busyloop: String? = nil, mtu: Int? = nil, announce: Bool? = nil,
                threads: [Int]? = nil, cpus: [Int]? = nil, options: String? = nil
            ) {
                (self.name, self.up, self.busyloop, self.mtu, self.announce) = (name, up, busyloop, mtu, announce)
                (self.threads, self.cpus, self.options) = (threads, cpus, options)
            }

            /// Nothing is to be set.
            var isEmpty: Bool {
                up == nil && busyloop == nil && mtu == nil && announce == nil && threads == nil && cpus == nil
                    && options == nil
            }
        }
        package typealias Answer = Port
    }

    package enum Stats: ControlMethod {
        package static let name = "stats"
        package static var isReading: Bool { true }
        package static var members: [MethodMember] { [("counts", "true or false", false)] }
        package struct Params: Codable, Sendable {
            /// Queue times have their `counts`, so that two answers can be told apart.
            package var counts: Bool?
            package init(counts: Bool? = nil) { self.counts = counts }
        }
        package typealias Answer = PeriodRecord
    }

    package enum Why: ControlMethod {
        package static let name = "queue.why"
        package static var isReading: Bool { true }
        package static var members: [MethodMember] {
            [("port", portName, false), ("queue", "a number from 0, with port", false)]
        }
        package struct Params: Codable, Sendable {
            package var port: String?
            package var queue: Int?
            package init(port: String? = nil, queue: Int? = nil) { (self.port, self.queue) = (port, queue) }
        }
        package struct Answer: Codable, Sendable { package var queues: [QueueReport] }
    }

    package enum Trace: ControlMethod {
        package static let name = "queue.trace"
        package static var isReading: Bool { true }
        package static var members: [MethodMember] { [("port", portName, true), ("queue", "a number from 0", false)] }
        package struct Params: Codable, Sendable {
            package var port: String
            package var queue: Int?
            package init(port: String, queue: Int? = nil) { (self.port, self.queue) = (port, queue) }
        }
        package struct Queue: Codable, Sendable {
            package var queue: Int
            package var events: [QueueEvent]
        }
        package struct Answer: Codable, Sendable { package var queues: [Queue] }
    }

    package enum Capture: ControlMethod {
        package static let name = "capture"
        package static var members: [MethodMember] {
            [
                ("port", portName, true), ("queue", "a number from 0", false),
                ("snap", "bytes of each packet, 14 to 65600", false),
            ]
        }
        package struct Params: Codable, Sendable {
            package var port: String
            package var queue: Int?
            package var snap: Int?
            package init(port: String, queue: Int? = nil, snap: Int? = nil) {
                (self.port, self.queue, self.snap) = (port, queue, snap)
            }
        }
        /// The memory comes with it.
        package struct Answer: Codable, Sendable {
            /// Of the memory (`CaptureMemory.version`).
            package var layout: Int
            package var threads: Int
            package var ringBytes: Int
            package var snap: Int
            /// Why packets go no further, by their numbers from 1 on.
            package var causes: [String]
        }
    }

    package enum ListAddresses: ControlMethod {
        package static let name = "switch.list"
        package static var isReading: Bool { true }
        package typealias Params = Nothing
        package struct Address: Codable, Sendable {
            package var mac: String
            package var vlan: Int?
            package var port: String
            package var kind: String
            package var age: Int
        }
        package struct Answer: Codable, Sendable { package var addresses: [Address] }
    }

    package enum ClearAddresses: ControlMethod {
        package static let name = "switch.clear"
        package static var members: [MethodMember] {
            [("port", portName, false), ("vlan", "0 to 4094", false)]
        }
        package struct Params: Codable, Sendable {
            package var port: String?
            package var vlan: Int?
            package init(port: String? = nil, vlan: Int? = nil) { (self.port, self.vlan) = (port, vlan) }
        }
        package struct Answer: Codable, Sendable { package var cleared: Int }
    }

    package enum SetMode: ControlMethod {
        package static let name = "mode.set"
        package static var members: [MethodMember] {
            [
                ("mac_ageing", "seconds, 1 to 1000000, with mode switch", false),
                ("size", "bytes, 14 to 9216, with mode generate", false),
            ]
        }
        package struct Params: Codable, Sendable {
            package var macAgeing: Int?
            package var size: Int?
            package init(macAgeing: Int? = nil, size: Int? = nil) { (self.macAgeing, self.size) = (macAgeing, size) }
        }
        package struct Answer: Codable, Sendable {
            package var mode: String
            package var macAgeing: Int?
            package var size: Int?
        }
    }

    package enum LogLevel: ControlMethod {
        package static let name = "log.level"
        package static var members: [MethodMember] {
            [("level", levelNames, false)]
        }
        package struct Params: Codable, Sendable {
            package var level: String?
            package init(level: String? = nil) { self.level = level }
        }
        package struct Answer: Codable, Sendable { package var level: String }
    }

    package enum Reload: ControlMethod {
        package static let name = "reload"
        package typealias Params = Nothing
        /// Names of ports.
        package struct Answer: Codable, Sendable {
            package var added: [String]
            package var removed: [String]
            package var changed: [String]
        }
    }

    package enum Export: ControlMethod {
        package static let name = "config.export"
        package static var isReading: Bool { true }
        package typealias Params = Nothing
        package struct Answer: Codable, Sendable { package var config: String }
    }

    package enum Upgrade: ControlMethod {
        package static let name = "upgrade"
        package typealias Params = Nothing
        package struct Answer: Codable, Sendable {
            /// Of what both say from here on.
            package var upgrade: Int
            package var version: String
            package var config: String
            /// By which the service manager is told.
            package var manager: [String: String]
        }
    }

    package enum Shutdown: ControlMethod {
        package static let name = "shutdown"
        package typealias Params = Nothing
        package typealias Answer = Nothing
    }
}

/// A method as the server calls it: its parameters are checked before, and its answer is JSON on one line.
struct MethodEntry {
    let name: String
    let isReading: Bool
    let run: ([String: JSONValue]) throws(RPC.Failure) -> String

    init<M: ControlMethod>(_ method: M.Type, _ body: @escaping (M.Params) throws(RPC.Failure) -> M.Answer) {
        (name, isReading) = (M.name, M.isReading)
        run = { params throws(RPC.Failure) in
            Console.JSON.text(try body(try MethodEntry.parameters(M.self, params)))
        }
    }

    private static func parameters<M: ControlMethod>(
        _ method: M.Type, _ params: [String: JSONValue]
    ) throws(RPC.Failure) -> M.Params {
        for key in params.keys.sorted() where !M.members.contains(where: { $0.name == key }) {
            let known = M.members.map(\.name)
            throw .parameters(
                "\(M.name): \(key): there is no such parameter; "
                    + (known.isEmpty ? "it takes none" : "\(known.joined(separator: ", ")) are"))
        }
        for member in M.members where member.isWanted && params[member.name] == nil {
            throw .parameters("\(M.name): \(member.name) is missing; write \(member.allowed)")
        }
        do {
            return try Console.JSON.read(M.Params.self, try JSONEncoder().encode(params))
        } catch DecodingError.typeMismatch(_, let context), DecodingError.dataCorrupted(let context),
            DecodingError.valueNotFound(_, let context)
        {
            let name = context.codingPath.first?.stringValue ?? "params"
            let allowed = M.members.first { $0.name == name }?.allowed ?? "an object"
            throw .parameters("\(M.name): \(name): write \(allowed)")
        } catch {
            throw .parameters("\(M.name): \(error)")
        }
    }
}
