/// What is wrong with a ring that had to be stopped: the defect and its operands.
public struct RingDefect: Error, Sendable, Equatable, CustomStringConvertible {
    /// What is wrong.
    public enum Kind: UInt8, Sendable, CaseIterable {
        /// nothing
        case none
        /// split: the available index is more than the queue size ahead
        case availableIndexJump
        /// a head or `next` index is not below the queue size
        case descriptorIndex
        /// a chain is longer than the queue, or loops
        case chainTooLong
        /// a buffer does not lie inside one region of guest memory
        case address
        /// a device-writable buffer in a transmit chain, or after one a readable buffer
        case writableInTransmit
        /// a device-readable buffer in a receive chain
        case readableInReceive
        /// an indirect descriptor without INDIRECT_DESC
        case indirectNotNegotiated
        /// an indirect descriptor inside an indirect table
        case indirectNested
        /// an indirect table of length 0 or not a multiple of 16
        case indirectLength
        /// an indirect descriptor with NEXT set
        case indirectWithNext
        /// an indirect table outside guest memory
        case indirectAddress
        /// a chain that holds no byte of a packet, or less than the net header
        case chainTooShort
        /// packed: a chain's later descriptors were never made available
        case chainIncomplete
        /// packed: a buffer id that is not below the queue size, or is in use
        case bufferID
        /// a driver side saw a used entry for a buffer that it never made available
        case usedID
        /// a driver side saw a used index that is more than what is outstanding
        case usedIndexJump
        /// a driver side saw a used length beyond the buffer
        case usedLength
        /// the memory behind the ring went away (SIGBUS)
        case memoryLost
        /// the dirty log does not reach a page that was written
        case logTooSmall
        /// the IOTLB has no entry that lets the device read there: the ring waits, and goes on when there is one
        case readMiss
        /// the same of an address that the device writes
        case writeMiss
    }

    /// What is wrong.
    public var kind: Kind
    /// Ring position (descriptor index or slot) where it was found.
    public var index: UInt32
    /// The offending value: an address, a length, an index.
    public var value: UInt64
    /// Its length where the value is an address.
    public var length: UInt32

    /// A defect and its operands.
    public init(_ kind: Kind, index: UInt32, value: UInt64, length: UInt32 = 0) {
        self.kind = kind
        self.index = index
        self.value = value
        self.length = length
    }

    /// Nothing is wrong with the ring: it waits until its front-end has said what an address means.
    public var isMiss: Bool { kind == .readMiss || kind == .writeMiss }

    /// No defect.
    public static let none = RingDefect(.none, index: 0, value: 0)

    public var description: String {
        func hex(_ v: UInt64) -> String { "0x" + String(v, radix: 16) }
        switch kind {
        case .none: return "no defect"
        case .availableIndexJump: return "available index \(value) is more than the queue size ahead of \(index)"
        case .descriptorIndex: return "descriptor \(index) names descriptor \(value), beyond the queue"
        case .chainTooLong: return "chain at \(index) is longer than \(value) descriptors"
        case .address: return "descriptor \(index) points outside guest memory: \(hex(value))+\(length)"
        case .writableInTransmit: return "descriptor \(index) is device-writable in a transmit chain"
        case .readableInReceive: return "descriptor \(index) is device-readable in a receive chain"
        case .indirectNotNegotiated: return "descriptor \(index) is indirect, but INDIRECT_DESC was not negotiated"
        case .indirectNested: return "descriptor \(index) of an indirect table is indirect itself"
        case .indirectLength: return "descriptor \(index): indirect table of \(value) bytes"
        case .indirectWithNext: return "descriptor \(index) is indirect and has NEXT set"
        case .indirectAddress:
            return "descriptor \(index): indirect table outside guest memory: \(hex(value))+\(length)"
        case .chainTooShort: return "chain at \(index) holds \(value) bytes, less than the net header"
        case .chainIncomplete: return "chain at \(index) has a descriptor that was not made available (\(value))"
        case .bufferID: return "slot \(index) has buffer id \(value), beyond the queue or in use"
        case .usedID: return "used entry \(index) names buffer \(value), which is not outstanding"
        case .usedIndexJump: return "used index \(value) is beyond what is outstanding after \(index)"
        case .usedLength: return "used entry \(index) has length \(value), beyond its buffer"
        case .logTooSmall: return "the dirty log does not reach guest address \(hex(value))"
        case .readMiss: return "descriptor \(index) waits for an IOTLB entry to read \(hex(value))+\(length)"
        case .writeMiss: return "descriptor \(index) waits for an IOTLB entry to write \(hex(value))+\(length)"
        case .memoryLost: return "memory at \(hex(value)) went away"
        }
    }
}
