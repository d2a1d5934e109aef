/// Why a region cannot be mapped. The text names the operand.
public struct MemoryError: Error, Sendable, Equatable, CustomStringConvertible {
    public let description: String
    /// One line, for people.
    public init(_ description: String) { self.description = description }
}

func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
