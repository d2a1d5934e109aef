import Foundation

/// How this program writes and reads JSON (docs/json.md): keys in the order of the alphabet, words joined by
/// underscores.
enum JSON {
    /// On one line, unless `isIndented`. Ends the program where a number is none.
    static func text(_ value: some Encodable, isIndented: Bool = false) -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if isIndented { encoder.outputFormatting.insert(.prettyPrinted) }
        guard let data = try? encoder.encode(value) else { fail("a number that JSON cannot write was measured") }
        return String(decoding: data, as: UTF8.self)
    }

    /// An object whose first member is `type`, so that a line's beginning tells what it is.
    static func text(type: String, _ value: some Encodable) -> String {
        "{\"type\":\"\(type)\"," + text(value).dropFirst()
    }

    static func read<Value: Decodable>(_ type: Value.Type, _ data: Data) throws -> Value {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(type, from: data)
    }

    /// The members of two values in one object.
    struct Joined<First: Encodable, Second: Encodable>: Encodable {
        let first: First
        let second: Second

        init(_ first: First, _ second: Second) { (self.first, self.second) = (first, second) }

        func encode(to encoder: any Encoder) throws {
            try first.encode(to: encoder)
            try second.encode(to: encoder)
        }
    }

    /// A value that is `null` where there is none. (A mere optional's member is left out.)
    struct OrNull<Value: Encodable>: Encodable {
        let value: Value?

        init(_ value: Value?) { self.value = value }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            try container.encode(value)
        }
    }
}

/// Prints a value as one line of JSON.
func printJSON(_ value: some Encodable) {
    print(JSON.text(value))
    flush()
}

extension Double {
    /// To so many digits after the point.
    func rounded(digits: Int) -> Double {
        let scale = Foundation.pow(10, Double(digits))
        return (self * scale).rounded() / scale
    }
}
