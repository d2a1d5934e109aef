import Dataplane

/// Reads ports as the program's `--port` takes them: `vhost-user:PATH`, `virtio-user:PATH` or
/// `tap:NAME`, followed by options after commas (`queues=N`, `mtu=N`, `mac=…`, `busyloop=…`,
/// `client=on`, `server=on`, `ring_reset=on`, `tap=NAME`).
public enum PortSyntax {
    /// The port that `text` describes. Errors: one line that says what to write instead.
    public static func port(_ text: String) throws(EngineError) -> PortOptions {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard let colon = parts[0].firstIndex(of: ":") else {
            throw EngineError("--port \(text): write vhost-user:PATH, virtio-user:PATH or tap:NAME")
        }
        let kind = String(parts[0][..<colon])
        let place = String(parts[0][parts[0].index(after: colon)...])
        guard !place.isEmpty else { throw EngineError("--port \(text): nothing stands after '\(kind):'") }
        guard ["vhost-user", "virtio-user", "tap"].contains(kind) else {
            throw EngineError("--port \(text): '\(kind)' is no kind of port; vhost-user, virtio-user and tap are")
        }
        var fields = Fields(kind: kind)
        var names = Set<String>()
        for part in parts.dropFirst() {
            let name = String(part.prefix { $0 != "=" })
            if !names.insert(name).inserted { throw EngineError("--port \(text): '\(name)' is given twice") }
            try fields.read(part, of: text)
        }
        return fields.options(place)
    }

    /// `auto`, `throughput` or `latency`.
    public static func pacing(_ text: String) throws(EngineError) -> Pacing {
        guard let pacing = Pacing(rawValue: text) else {
            throw EngineError("pacing '\(text)': write auto, throughput or latency")
        }
        return pacing
    }

    /// A budget: `poll`, `auto`, `0`, or microseconds as `50` or `50us`.
    public static func busyloop(_ text: String) throws(EngineError) -> BusyloopBudget {
        switch text {
        case "poll": return .poll
        case "auto": return .auto
        case "0": return .sleep
        default:
            let digits = text.hasSuffix("us") ? String(text.dropLast(2)) : text
            guard let us = Int(digits), us > 0, us <= 1_000_000 else {
                throw EngineError("busyloop '\(text)': write poll, auto, 0, or 1 to 1000000 microseconds as in 50us")
            }
            return .microseconds(us)
        }
    }

    /// Budgets with commas, with their names.
    public static func budgets(_ text: String) throws(EngineError) -> [(name: String, value: BusyloopBudget)] {
        var all: [(name: String, value: BusyloopBudget)] = []
        for name in text.split(separator: ",", omittingEmptySubsequences: false).map(String.init) {
            do throws(EngineError) { all.append((name, try busyloop(name))) } catch {
                throw EngineError("--budgets \(text): \(error)")
            }
        }
        return all
    }

    /// CPUs: `0,2-4`.
    public static func cpus(_ text: String) throws(EngineError) -> [Int] {
        var all: [Int] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
            guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1], first >= 0,
                first <= last, last < 4096
            else { throw EngineError("--cpus \(text): write CPU numbers as in 1 or 0,2-4") }
            all += first...last
        }
        return all
    }

    /// A MAC address of six hexadecimal bytes with colons.
    static func mac(_ text: String) -> [UInt8]? {
        let bytes = text.split(separator: ":", omittingEmptySubsequences: false).map {
            $0.count <= 2 ? UInt8($0, radix: 16) : nil
        }
        return bytes.count == 6 && !bytes.contains(nil) ? bytes.map { $0! } : nil
    }

    private struct Fields {
        let kind: String
        var queues: Int?
        var mtu: UInt16?
        var mac: [UInt8]?
        var busyloop: BusyloopBudget?
        var pacing: Pacing?
        var isClient = false
        var isServer = false
        var offersRingReset = false
        var tap: String?
        var isPacked = false
        var isInOrder = true
        var ringSize = 1024

        mutating func read(_ part: String, of text: String) throws(EngineError) {
            guard let equals = part.firstIndex(of: "=") else {
                throw EngineError("--port \(text): '\(part)': options are written name=value")
            }
            let name = String(part[..<equals])
            let value = String(part[part.index(after: equals)...])
            switch (name, kind) {
            case ("queues", _):
                guard let n = Int(value), (1...128).contains(n) else {
                    throw EngineError("--port \(text): queues=\(value): 1 to 128 queue pairs")
                }
                queues = n
            case ("mtu", "tap"), ("mac", "tap"):
                throw EngineError(
                    "--port \(text): '\(name)' is the interface's; use `ip link set NAME \(name == "mac" ? "address" : name) \(value)`"
                )
            case ("mtu", _):
                guard let n = UInt16(value), n >= 68 else {
                    throw EngineError("--port \(text): mtu=\(value): 68 to 65535 bytes")
                }
                mtu = n
            case ("mac", _):
                guard let m = PortSyntax.mac(value), m[0] & 1 == 0 else {
                    throw EngineError("--port \(text): mac=\(value): write a unicast address as in 02:00:00:00:00:01")
                }
                mac = m
            case ("busyloop", _):
                do throws(EngineError) { busyloop = try PortSyntax.busyloop(value) } catch {
                    throw EngineError("--port \(text): \(error)")
                }
            case ("pacing", "vhost-user"):
                do throws(EngineError) { pacing = try PortSyntax.pacing(value) } catch {
                    throw EngineError("--port \(text): \(error)")
                }
            case ("client", "vhost-user"): isClient = try PortSyntax.flag(name, value, text)
            case ("ring_reset", "vhost-user"): offersRingReset = try PortSyntax.flag(name, value, text)
            case ("server", "virtio-user"): isServer = try PortSyntax.flag(name, value, text)
            case ("tap", "virtio-user"): tap = value
            case ("packed", "virtio-user"), ("packed_vq", "virtio-user"):
                isPacked = try PortSyntax.flag(name, value, text)
            case ("in_order", "virtio-user"): isInOrder = try PortSyntax.flag(name, value, text)
            case ("queue_size", "virtio-user"):
                guard let n = Int(value), (2...32768).contains(n) else {
                    throw EngineError("--port \(text): queue_size=\(value): 2 to 32768")
                }
                ringSize = n
            default:
                throw EngineError("--port \(text): '\(name)' is no option of \(kind); " + (Fields.known[kind] ?? ""))
            }
        }

        private static let known = [
            "vhost-user": "queues, mtu, mac, busyloop, pacing, client, ring_reset are",
            "virtio-user": "queues, mtu, mac, busyloop, server, tap, packed, in_order, queue_size are",
            "tap": "queues, busyloop are",
        ]

        func options(_ place: String) -> PortOptions {
            var o: PortOptions
            switch kind {
            case "vhost-user": o = PortOptions(.vhostUser(path: place, isClient: isClient))
            case "virtio-user": o = PortOptions(.virtioUser(path: place, isServer: isServer, tap: tap))
            default: o = PortOptions(.tap(name: place))
            }
            o.offersRingReset = offersRingReset
            o.queuePairs = queues ?? 1
            o.mtu = mtu
            o.mac = mac
            o.busyloop = busyloop
            o.pacing = pacing
            o.wantsPacked = isPacked
            o.wantsInOrder = isInOrder
            o.ringSize = ringSize
            return o
        }
    }

    private static func flag(_ name: String, _ value: String, _ text: String) throws(EngineError) -> Bool {
        switch value {
        case "on", "1": return true
        case "off", "0": return false
        default: throw EngineError("--port \(text): \(name)=\(value): write \(name)=on or \(name)=off")
        }
    }
}
