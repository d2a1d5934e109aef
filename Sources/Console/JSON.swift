import Foundation

/// How this program writes and reads JSON (docs/json.md): keys in the order of the alphabet, words joined by
/// underscores.
package enum JSON {
    /// On one line, unless `isIndented`. Ends the program where a number is none.
    package static func text(_ value: some Encodable, isIndented: Bool = false) -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if isIndented { encoder.outputFormatting.insert(.prettyPrinted) }
        guard let data = try? encoder.encode(value) else { fail("a number that JSON cannot write was measured") }
        return String(decoding: data, as: UTF8.self)
    }

    /// An object whose first member is `type`, so that a line's beginning tells what it is.
    package static func text(type: String, _ value: some Encodable) -> String {
        "{\"type\":\"\(type)\"," + text(value).dropFirst()
    }

    package static func read<Value: Decodable>(_ type: Value.Type, _ data: Data) throws -> Value {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(type, from: data)
    }

    /// The members of two values in one object.
    package struct Joined<First: Encodable, Second: Encodable>: Encodable {
        let first: First
        let second: Second

        package init(_ first: First, _ second: Second) { (self.first, self.second) = (first, second) }

        package func encode(to encoder: any Encoder) throws {
            try first.encode(to: encoder)
            try second.encode(to: encoder)
        }
    }

    /// A value that is `null` where there is none. (A mere optional's member is left out.)
    package struct OrNull<Value: Encodable>: Encodable {
        let value: Value?

        package init(_ value: Value?) { self.value = value }

        package func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            try container.encode(value)
        }
    }
}

/// Prints a value as one line of JSON.
package func printJSON(_ value: some Encodable) {
    print(JSON.text(value))
    flush()
}

extension Double {
    /// To so many digits after the point.
    package func rounded(digits: Int) -> Double {
        let scale = Foundation.pow(10, Double(digits))
        return (self * scale).rounded() / scale
    }
}
