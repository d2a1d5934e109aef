import CPlatform
import Virtio

/// Runs a packet function without an engine, on the calling thread: frames in, frames out. For tests of functions, and
/// for trying one on a capture.
///
/// One thread at a time.
///
/// ```swift
/// let harness = FunctionHarness(Pass(), ports: 2)
/// #expect(harness.process([frame], from: 0) == [.init(frame, to: [1])])
/// ```
public final class FunctionHarness<F: PacketFunction & ~Copyable> {
    /// What became of a packet.
    public struct Output: Equatable, Sendable, CustomStringConvertible {
        /// The frame as a receiver gets it that accepted all offloads.
        public var frame: [UInt8]
        /// Ports that it goes to, in order; none: it was dropped.
        public var ports: [Int]
        /// Why, where it was dropped for a cause of the function's own (its name).
        public var cause: String?
        /// A copy, or a packet of the function's own.
        public var isMade: Bool
        /// The function has used it up (`Verdict.consumed`).
        public var isConsumed: Bool
        /// Its net header, as the function left it.
        public var header = NetHeader()

        /// What a test expects.
        public init(
            _ frame: [UInt8], to ports: [Int], because cause: String? = nil, isMade: Bool = false,
            isConsumed: Bool = false
        ) {
            self.frame = frame
            self.ports = ports
            self.cause = cause
            self.isMade = isMade
            self.isConsumed = isConsumed
        }

        public var description: String {
            let bytes = frame.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            return "\(bytes) to \(ports)\(cause.map { ", dropped: \($0)" } ?? "")\(isMade ? ", made" : "")"
                + (isConsumed ? ", consumed" : "")
        }

        /// All but the net header.
        public static func == (a: Output, b: Output) -> Bool {
            a.frame == b.frame && a.ports == b.ports && a.cause == b.cause && a.isMade == b.isMade
                && a.isConsumed == b.isConsumed
        }
    }

    /// The function itself.
    public var function: F
    /// Whole seconds of the function's clock, and its ticks: they stand still unless they are set.
    public var (seconds, ticks): (UInt32, UInt64) = (1, 1)
    private let portCount: Int
    private let memory: PairTableMemory
    private let words = OwnedMemory<UInt64>(count: FunctionTraits.words, repeating: 0)
    private let room = OwnedValues(Burst())

    /// An engine of `ports` ports, all up, as the function sees it.
    public init(_ function: consuming F, ports: Int) {
        self.function = function
        portCount = ports
        memory = PairTableMemory(portCount: ports, places: ports)
        for port in 0..<ports { memory.table.setActivePairs(1, port) }
    }

    /// Has the function judge frames that come from `port`, in bursts of 64; returns what became of each, in order, and
    /// after each burst of what the function made. `pieces`: lengths of the descriptors that each frame is spread over
    /// (the last takes the rest); none: one. `header`: the net header of each.
    public func process(
        _ frames: [[UInt8]], from port: Int, pair: Int = 0, pieces: [Int] = [], header: NetHeader = NetHeader()
    ) -> [Output] {
        var all: [Output] = []
        for start in stride(from: 0, to: frames.count, by: Burst.maximum) {
            let part = Array(frames[start..<min(frames.count, start + Burst.maximum)])
            all += run(part, port, pieces, header) {
                room.start.pointee.packets.loadFronts(part.count, FunctionTraits(F.self).front)
                let packets = self.packets(port, pair, part.count)
                if let verdict = self.function.process(packets) { packets.decideAll(verdict) }
            }
        }
        return all
    }

    /// Has it keep house; returns what it made.
    public func tick() -> [Output] {
        run([], -1, [], NetHeader()) { self.function.tick(self.packets(-1, 0, 0)) }
    }

    /// Gives it a command.
    public func send(_ command: F.Command) -> F.Answer {
        function.perform(command, at: BurstTime(seconds: seconds, ticks: ticks))
    }

    /// Tells it of a port, as an engine does.
    public func setPort(_ port: Int, isUp: Bool) {
        memory.table.setActivePairs(isUp ? 1 : 0, port)
        function.portChanged(port, isUp: isUp)
    }

    /// What functions get to know of a port, without telling them that it changed.
    public func setInfo(_ info: PortInfo, of port: Int) {
        let bytes = info.mac.map { mac in (0..<6).map { UInt8(truncatingIfNeeded: mac.rawValue >> UInt64(8 * $0)) } }
        memory.table.setAddress(bytes, mtu: info.mtu, port)
        memory.table.setOffloads(info.offloads, port)
        memory.table.setActivePairs(info.isUp ? 1 : 0, port)
    }

    /// A counter by its name.
    public func counter(_ name: String) -> UInt64? { F.counters.firstIndex(of: name).map { words[$0] } }

    @_lifetime(immortal)
    private func packets(_ port: Int, _ pair: Int, _ n: Int) -> PacketBurst {
        PacketBurst(
            room.start, count: n, port: port, pair: pair, seconds: seconds,
            ticks: ticks, counters: CounterRow(words), table: memory.table)
    }

    private func run(
        _ frames: [[UInt8]], _ port: Int, _ pieces: [Int], _ header: NetHeader,
        _ body: () -> Void
    ) -> [Output] {
        let bytes = OwnedMemory(frames.flatMap { $0 })
        room.start.pointee.work = FunctionWork()
        (room.start.pointee.count, room.start.pointee.segmentCount) = (frames.count, 0)
        // Its packets point there.
        defer { withExtendedLifetime(bytes) {} }
        var start = 0
        for (i, frame) in frames.enumerated() {
            place(i, bytes, start, frame.count, pieces)
            room.start.pointee.packets[i].header = header
            start += frame.count
        }
        body()
        let made = (0..<Int(room.start.pointee.work.made)).map { output(Burst.maximum + $0, port, isMade: true) }
        return frames.indices.map { output($0, port, isMade: false) } + made
    }

    /// A frame's slot, its bytes in pieces.
    private func place(
        _ i: Int, _ bytes: borrowing OwnedMemory<UInt8>, _ first: Int, _ length: Int, _ pieces: [Int]
    ) {
        let slot = room.start.pointee.packets + i
        slot.pointee.place(bytes.start + first, UInt32(length))
        var lengths: [Int] = []
        var left = length
        for piece in pieces where left > piece {
            lengths.append(piece)
            left -= piece
        }
        lengths.append(left)
        slot.pointee.dataLength = UInt32(lengths[0])
        let list = room.start.pointee.segments + room.start.pointee.segmentCount
        var start = first + lengths[0]
        for (k, piece) in lengths.dropFirst().enumerated() {
            list[k] = Segment(base: bytes.start + start, length: UInt32(piece))
            start += piece
        }
        slot.pointee.more = list
        slot.pointee.moreCount = UInt16(lengths.count - 1)
        room.start.pointee.segmentCount += lengths.count - 1
    }

    private func output(_ i: Int, _ port: Int, isMade: Bool) -> Output {
        let slot = room.start.pointee.packets[i]
        let frame = (0..<slot.pieces).flatMap { piece in
            let segment = slot.piece(piece)!
            return (0..<Int(segment.length)).map { segment.base.load(fromByteOffset: $0, as: UInt8.self) }
        }
        let verdict = Verdict(rawValue: slot.verdict)
        let cause = verdict.cause.map { $0 < F.dropCauses.count ? F.dropCauses[$0] : "cause \($0)" }
        var output = Output(
            frame, to: ports(verdict, port), because: cause, isMade: isMade, isConsumed: verdict == .consumed)
        output.header = slot.header
        if frame.count < Int(PacketSlot.minimumLength) { output.ports = [] }
        return output
    }

    private func ports(_ verdict: Verdict, _ origin: Int) -> [Int] {
        let others = (0..<portCount).filter { $0 != origin }
        if verdict == .flood { return others }
        if let set = verdict.set { return others.filter { room.start.pointee.sets[set].contains($0) } }
        return verdict.port.map { $0 < portCount ? [$0] : [] } ?? []
    }
}
