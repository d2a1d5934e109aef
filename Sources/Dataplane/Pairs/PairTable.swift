import CPlatform
import Virtio

/// The memory of a `PairTable` and of its pairs, freed with its owner.
struct PairTableMemory: ~Copyable {
    /// How many ports there can be.
    let places: Int
    private let portCount: Int
    private var rooms: [PairPointer: PairRoom] = [:]
    private let pairs: OwnedMemory<PairPointer?>
    private let active: OwnedMemory<UInt32>
    private let facts: OwnedMemory<UInt64>

    /// For the ports 0 to `portCount` - 1, and for others that come later: `places` in all.
    init(portCount: Int, places: Int) {
        self.portCount = portCount
        self.places = max(1, places)
        pairs = OwnedMemory(count: self.places * PairTable.pairsPerPort, repeating: nil)
        active = OwnedMemory(count: self.places, repeating: 0)
        facts = OwnedMemory(count: self.places * PairTable.factsPerPort, repeating: 0)
    }

    /// Of the ports at the start. Must not outlive this.
    var table: PairTable {
        PairTable(portCount: portCount, pairs: pairs.start, active: active.start, facts: facts.start)
    }

    /// Takes a pair over and puts it into the table. Its place there is free.
    mutating func add(_ pair: consuming PairState) -> PairPointer {
        let room = PairRoom(pair)
        let pointer = room.pointer
        rooms[pointer] = room
        assert(table[pointer.pointee.port, pointer.pointee.pair] == nil)
        table[pointer.pointee.port, pointer.pointee.pair] = pointer
        return pointer
    }

    /// Takes a port's pairs out of the table: who looks from now on finds none. They live until `free`.
    func takeOut(port: Int) -> [PairPointer] {
        (0..<PairTable.pairsPerPort).compactMap { pair in
            let pointer = table[port, pair]
            table[port, pair] = nil
            return pointer
        }
    }

    /// Frees pairs that were taken out, after every thread has let go of them.
    mutating func free(_ pairs: [PairPointer]) { for pair in pairs { rooms[pair] = nil } }
}

/// A pair, on cache lines of its own: another thread may own its neighbour.
private final class PairRoom {
    private let room: OwnedValues<PairState>
    /// Must not outlive this.
    var pointer: PairPointer { room.start }

    init(_ pair: consuming PairState) { room = OwnedValues(pair) }
}

/// All pairs of an engine by port and pair, as one thread sees it. There is room for ports that come later.
struct PairTable: BitwiseCopyable {
    static let pairsPerPort = 128
    /// Behind the last port. Each poll thread has it of its own, and learns of a change between two bursts: a port
    /// receives packets when all threads know it, and no longer before the first of them forgets it.
    var portCount: Int
    fileprivate let pairs: UnsafeMutablePointer<PairPointer?>
    /// Receive-ready pairs of each port, counted from pair 0: written by its control thread, read by all poll threads.
    /// One that reads an old number sends packets to a ring that has stopped; its owner drops and counts them.
    fileprivate let active: UnsafeMutablePointer<UInt32>
    /// What packet functions can ask of each port: its address and MTU, and the offloads that its driver takes.
    fileprivate let facts: UnsafeMutablePointer<UInt64>
    fileprivate static var factsPerPort: Int { 2 }

    @inline(__always)
    subscript(port: Int, pair: Int) -> PairPointer? {
        get { self[place: port &* PairTable.pairsPerPort &+ pair] }
        nonmutating set {
            CPlat_store64_release(
                pairs + (port &* PairTable.pairsPerPort &+ pair), UInt64(UInt(bitPattern: newValue)))
        }
    }

    /// By the number that kicks carry: 128 times the port, and the pair. A port that comes is made before it is seen.
    @inline(__always)
    subscript(place place: Int) -> PairPointer? {
        PairPointer(bitPattern: UInt(truncatingIfNeeded: CPlat_load64_acquire(pairs + place)))
    }

    @inline(__always)
    func activePairs(_ port: Int) -> Int { Int(CPlat_load32_relaxed(active + port)) }

    /// As they stand in the port's options; `mac` has six bytes. Before threads look.
    func setAddress(_ mac: [UInt8]?, mtu: UInt16?, _ port: Int) {
        let address = (mac ?? []).prefix(6).enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }
        CPlat_store64_relaxed(facts + port * PairTable.factsPerPort, address | UInt64(mtu ?? 0) << 48)
    }

    /// By the port's control thread.
    func setOffloads(_ offloads: Features, _ port: Int) {
        CPlat_store64_relaxed(facts + (port * PairTable.factsPerPort + 1), offloads.rawValue)
    }

    /// By any thread.
    func facts(_ port: Int) -> (address: UInt64, mtu: UInt16, offloads: Features) {
        let word = CPlat_load64_relaxed(facts + port * PairTable.factsPerPort)
        let offloads = CPlat_load64_relaxed(facts + (port * PairTable.factsPerPort + 1))
        return (word & 0xffff_ffff_ffff, UInt16(word >> 48), Features(rawValue: offloads))
    }

    func setActivePairs(_ count: Int, _ port: Int) { CPlat_store32_release(active + port, UInt32(count)) }
}
