import Headers
import Virtio

/// One of a classifier's rules: what a flow must be for it to match. What is not said matches anything.
public struct ClassifierRule: Sendable, Hashable {
    /// Addresses that match.
    public enum Addresses: Sendable, Hashable {
        /// All, of IPv4 and IPv6.
        case any
        /// Those of an IPv4 prefix.
        case ipv4(IPv4Prefix)
        /// Those of an IPv6 prefix.
        case ipv6(IPv6Prefix)

        /// From text: `any`, an address or a prefix of either kind. Nil for anything else.
        public init?(_ text: String) {
            if text == "any" {
                self = .any
            } else if let prefix = IPv4Prefix(text) {
                self = .ipv4(prefix)
            } else if let prefix = IPv6Prefix(text) {
                self = .ipv6(prefix)
            } else {
                return nil
            }
        }
    }

    /// Source addresses.
    public var source: Addresses
    /// Destination addresses. A rule with one address of IPv4 and one of IPv6 matches nothing.
    public var destination: Addresses
    /// Protocol; nil: any.
    public var `protocol`: IPProtocol?
    /// Source ports. What has no ports has those of its `FlowKey`, mostly 0: a rule about ports says its protocol as
    /// well.
    public var sourcePorts: ClosedRange<UInt16>
    /// Destination ports.
    public var destinationPorts: ClosedRange<UInt16>
    /// What is to happen: a number of the caller's.
    public var action: UInt32

    /// A rule for all that is left out.
    public init(
        source: Addresses = .any, destination: Addresses = .any, protocol: IPProtocol? = nil,
        sourcePorts: ClosedRange<UInt16> = 0...0xffff, destinationPorts: ClosedRange<UInt16> = 0...0xffff,
        action: UInt32
    ) {
        self.source = source
        self.destination = destination
        self.protocol = `protocol`
        self.sourcePorts = sourcePorts
        self.destinationPorts = destinationPorts
        self.action = action
    }

    /// Whether it matches this flow, looked at by itself. A classifier answers the same for all of its rules, faster.
    public func matches(_ key: FlowKey) -> Bool {
        if let wanted = `protocol`, wanted != key.protocol { return false }
        guard sourcePorts.contains(key.sourcePort), destinationPorts.contains(key.destinationPort) else { return false }
        func matches(_ addresses: Addresses, _ v4: IPv4Address?, _ v6: IPv6Address?) -> Bool {
            switch addresses {
            case .any: true
            case .ipv4(let prefix): v4.map { prefix.contains($0) } ?? false
            case .ipv6(let prefix): v6.map { prefix.contains($0) } ?? false
            }
        }
        return matches(source, key.sourceIPv4, key.sourceIPv6)
            && matches(destination, key.destinationIPv4, key.destinationIPv6)
    }
}

/// Why there is no classifier of these rules.
public enum ClassifierError: Error, Equatable {
    /// There are more rules than `Classifier.mostRules`.
    case tooManyRules(Int)
}

/// An ordered list of rules over 5-tuples, of which the first that matches counts: firewalls, policies. Made once, and
/// then only read: several threads may use one at a time, and new rules are a new classifier, which replaces the old
/// one.
///
/// **How.** Each of the five fields has a table that says which rules the field's value matches, as a set of bits;
/// equal sets are stored once. The sets of a packet are put together with "and", and the first bit that is left is the
/// rule. Which words of 64 rules can have one at all is found by the same with one bit a word ("aggregated bit
/// vector"), so a packet costs five table look-ups and mostly one or two words, with 10 rules as with 1,000. Memory:
/// 0.6 MiB for the tables and, at worst, 1 KiB for each of 1,000 rules; the square of their number counts.
///
/// ```swift
/// let classifier = try Classifier([
///     ClassifierRule(protocol: .tcp, destinationPorts: 22...22, action: 0),
///     ClassifierRule(source: .ipv4(IPv4Prefix("10.0.0.0/8")!), action: 1),
/// ])
/// let action = classifier.match(key)?.action  // That of the first rule which matches
/// ```
public struct Classifier: ~Copyable, Sendable {
    /// The rule that counts for a packet.
    public struct Match: Equatable, Sendable, BitwiseCopyable {
        /// Its place in the list, from 0 on.
        public let rule: Int
        /// Its action.
        public let action: UInt32

        /// Rule number `rule`, with its action.
        public init(rule: Int, action: UInt32) {
            self.rule = rule
            self.action = action
        }
    }

    /// Rules that there can be.
    public static var mostRules: Int { 4096 }

    /// Rules that there are.
    public let count: Int
    private let actions: OwnedTable<UInt32>
    private let source4: BitTable<AddressSteps>
    private let destination4: BitTable<AddressSteps>
    private let source6: BitTable<AddressSearch>
    private let destination6: BitTable<AddressSearch>
    private let sourcePort: BitTable<Direct>
    private let destinationPort: BitTable<Direct>
    private let proto: BitTable<Direct>

    /// Of rules in their order. Takes milliseconds to a second. Throws where there are too many.
    public init(_ rules: [ClassifierRule]) throws(ClassifierError) {
        guard rules.count <= Classifier.mostRules else { throw .tooManyRules(rules.count) }
        count = rules.count
        actions = OwnedTable(rules.map(\.action))
        func ranges(_ field: (ClassifierRule) -> ClosedRange<UInt128>?) -> [ClosedRange<UInt128>?] { rules.map(field) }
        func v4(_ addresses: ClassifierRule.Addresses) -> ClosedRange<UInt128>? {
            switch addresses {
            case .any: 0...UInt128(UInt32.max)
            case .ipv4(let p): UInt128(p.address.rawValue)...UInt128(p.last.rawValue)
            case .ipv6: nil
            }
        }
        func v6(_ addresses: ClassifierRule.Addresses) -> ClosedRange<UInt128>? {
            switch addresses {
            case .any: 0...UInt128.max
            case .ipv4: nil
            case .ipv6(let p): p.address.aligned...p.last.aligned
            }
        }
        func wide(_ ports: ClosedRange<UInt16>) -> ClosedRange<UInt128> {
            UInt128(ports.lowerBound)...UInt128(ports.upperBound)
        }
        source4 = BitTable(ranges { v4($0.source) })
        destination4 = BitTable(ranges { v4($0.destination) })
        source6 = BitTable(ranges { v6($0.source) })
        destination6 = BitTable(ranges { v6($0.destination) })
        sourcePort = BitTable(ranges { wide($0.sourcePorts) })
        destinationPort = BitTable(ranges { wide($0.destinationPorts) })
        proto = BitTable(
            ranges { $0.protocol.map { UInt128($0.rawValue)...UInt128($0.rawValue) } ?? 0...UInt128(UInt8.max) })
    }

    /// Bytes of memory.
    public var bytes: Int {
        source4.bytes + destination4.bytes + source6.bytes + destination6.bytes + sourcePort.bytes
            + destinationPort.bytes + proto.bytes + count * 4
    }

    /// The first rule that matches; nil where none does. At most 64 words of each field's set are read.
    public func match(_ key: FlowKey) -> Match? {
        let (from, to): (BitRow, BitRow)
        if key.isIPv4 {
            from = source4.row(UInt32(truncatingIfNeeded: key.sourceLow))
            to = destination4.row(UInt32(truncatingIfNeeded: key.destinationLow))
        } else {
            from = source6.row(key.sourceHigh, key.sourceLow)
            to = destination6.row(key.destinationHigh, key.destinationLow)
        }
        let fromPort = sourcePort.row(Int(key.sourcePort))
        let toPort = destinationPort.row(Int(key.destinationPort))
        let proto = proto.row(Int(key.protocol.rawValue))
        // The first word of a row has a bit for each of the others that is not 0.
        var words = from[0] & to[0] & fromPort[0] & toPort[0] & proto[0]
        while words != 0 {
            let word = words.trailingZeroBitCount
            let i = word &+ 1
            let rules = from[i] & to[i] & fromPort[i] & toPort[i] & proto[i]
            if rules != 0 {
                let rule = word &<< 6 | rules.trailingZeroBitCount
                return Match(rule: rule, action: actions[rule])
            }
            words &= words &- 1
        }
        return nil
    }
}

// MARK: One field

/// Finds which of a field's intervals a value lies in.
private protocol Intervals: ~Copyable, Sendable {
    /// `starts[i]` is the first value of interval `i`, `starts[0]` is 0; `rows[i]` what is to be found.
    init(_ starts: [UInt128], _ rows: [UInt16])
    var bytes: Int { get }
}

/// A set of rules: a word that says which others are not 0, and these. Must not outlive its table.
private struct BitRow: BitwiseCopyable {
    let start: UnsafePointer<UInt64>

    @inline(__always)
    subscript(_ word: Int) -> UInt64 { start[word] }
}

/// Sets of rules by a field's value.
private struct BitTable<Index: Intervals & ~Copyable>: ~Copyable {
    let index: Index
    /// A row for each set that occurs.
    let rows: OwnedTable<UInt64>
    let width: Int
    let count: Int

    /// `ranges[i]`: the values that rule `i` matches; nil: none.
    init(_ ranges: [ClosedRange<UInt128>?]) {
        let words = (ranges.count + 63) / 64
        width = 1 + words
        // Rules that begin, and that end before, a value.
        var changes: [UInt128: [Int]] = [0: []]
        for (i, range) in ranges.enumerated() {
            guard let range else { continue }
            changes[range.lowerBound, default: []].append(i)
            if range.upperBound != .max { changes[range.upperBound + 1, default: []].append(i) }
        }
        let starts = changes.keys.sorted()
        var set = [UInt64](repeating: 0, count: words)
        var known: [[UInt64]: UInt16] = [:]
        var sets: [[UInt64]] = []
        var found: [UInt16] = []
        for start in starts {
            // Each rule comes up twice: where it begins it goes in, behind its end it goes out.
            for rule in changes[start]! { set[rule / 64] ^= 1 << UInt64(rule % 64) }
            if let row = known[set] {
                found.append(row)
            } else {
                known[set] = UInt16(sets.count)
                found.append(UInt16(sets.count))
                sets.append(set)
            }
        }
        index = Index(starts, found)
        count = sets.count
        var all = [UInt64](repeating: 0, count: width * sets.count)
        for (i, set) in sets.enumerated() {
            let row = i * width
            for (k, word) in set.enumerated() {
                all[row + 1 + k] = word
                if word != 0 { all[row] |= 1 << UInt64(k) }
            }
        }
        rows = OwnedTable(all)
    }

    var bytes: Int { index.bytes + width * count * 8 }

    @inline(__always)
    func row(at i: UInt16) -> BitRow { BitRow(start: rows.start + Int(i) &* width) }
}

extension BitTable where Index == Direct {
    @inline(__always)
    func row(_ value: Int) -> BitRow { row(at: index.rows[value]) }
}

extension BitTable where Index == AddressSteps {
    @inline(__always)
    func row(_ address: UInt32) -> BitRow { row(at: index.find(address)) }
}

extension BitTable where Index == AddressSearch {
    @inline(__always)
    func row(_ high: UInt64, _ low: UInt64) -> BitRow { row(at: index.find(high, low)) }
}

/// A row for each value of 16 bits: ports, and protocols, which are fewer.
private struct Direct: Intervals, ~Copyable {
    let rows: OwnedTable<UInt16>
    var bytes: Int { 65_536 * 2 }

    init(_ starts: [UInt128], _ found: [UInt16]) {
        var i = 0
        rows = OwnedTable(count: 65_536) { value in
            while i + 1 < starts.count && starts[i + 1] <= UInt128(value) { i += 1 }
            return found[i]
        }
    }
}

/// IPv4 addresses: steps of 16, 8 and 8 bits, as in `PrefixTable`. An entry with the highest bit is the number of the
/// next step's 256 entries, else a row.
private struct AddressSteps: Intervals, ~Copyable {
    let entries: OwnedTable<UInt16>
    let count: Int
    var bytes: Int { count * 2 }

    init(_ starts: [UInt128], _ found: [UInt16]) {
        // With 4,096 rules at most 8,193 intervals: each bound makes two nodes at most, which 15 bits can count.
        var all = [UInt16](repeating: 0, count: 65_536)
        var i = 0
        func fill(_ base: Int, _ size: Int, _ first: UInt64, _ step: UInt64) {
            for k in 0..<size {
                let value = first + UInt64(k) * step
                while i + 1 < starts.count && starts[i + 1] <= UInt128(value) { i += 1 }
                if i + 1 < starts.count && starts[i + 1] < UInt128(value + step) {
                    let node = all.count >> 8
                    all[base + k] = UInt16(0x8000 | (node - 256))
                    all.append(contentsOf: [UInt16](repeating: 0, count: 256))
                    fill(node << 8, 256, value, step >> 8)
                } else {
                    all[base + k] = found[i]
                }
            }
        }
        fill(0, 65_536, 0, 65_536)
        count = all.count
        entries = OwnedTable(all)
    }

    @inline(__always)
    func find(_ address: UInt32) -> UInt16 {
        var entry = entries[Int(address &>> 16)]
        if entry & 0x8000 == 0 { return entry }
        entry = entries[65_536 &+ Int(entry & 0x7fff) &<< 8 &+ Int(address &>> 8 & 0xff)]
        if entry & 0x8000 == 0 { return entry }
        return entries[65_536 &+ Int(entry & 0x7fff) &<< 8 &+ Int(address & 0xff)]
    }
}

/// The first address of an interval. (Not private: with a private element of memory in such types the compiler, 6.3.1,
/// breaks off without optimisation.)
struct IntervalStart: BitwiseCopyable {
    var high: UInt64
    var low: UInt64
}

/// IPv6 addresses: a search by halves without branches, at most 14 steps.
private struct AddressSearch: Intervals, ~Copyable {
    let starts: OwnedTable<IntervalStart>
    let rows: OwnedTable<UInt16>
    /// A power of two: behind the last interval the largest address repeats.
    let count: Int
    var bytes: Int { count * 18 }

    init(_ given: [UInt128], _ found: [UInt16]) {
        var size = 1
        while size < given.count { size *= 2 }
        count = size
        starts = OwnedTable(count: size) { i in
            let value = i < given.count ? given[i] : .max
            return IntervalStart(
                high: UInt64(truncatingIfNeeded: value >> 64), low: UInt64(truncatingIfNeeded: value))
        }
        rows = OwnedTable(count: size) { i in i < given.count ? found[i] : found[found.count - 1] }
    }

    @inline(__always)
    func find(_ high: UInt64, _ low: UInt64) -> UInt16 {
        var at = 0
        var half = count &>> 1
        while half > 0 {
            let start = starts[at &+ half]
            let isBehind = high > start.high || (high == start.high && low >= start.low)
            at = isBehind ? at &+ half : at
            half &>>= 1
        }
        return rows[at]
    }
}
