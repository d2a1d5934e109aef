import Console
import Foundation

/// JSON-RPC 2.0 as the control socket speaks it: one document a line, parameters by name.
package enum RPC {
    /// An error of a request: a code of the specification or one of ours, and one line that says what to do.
    package struct Failure: Error, Codable, Equatable, Sendable, CustomStringConvertible {
        package var code: Int
        package var message: String

        package var description: String { message }

        static func parse(_ text: String) -> Failure { Failure(code: -32700, message: text) }
        static func request(_ text: String) -> Failure { Failure(code: -32600, message: text) }
        static func method(_ text: String) -> Failure { Failure(code: -32601, message: text) }
        static func parameters(_ text: String) -> Failure { Failure(code: -32602, message: text) }
        /// The dataplane cannot do it; nothing has changed.
        static func refused(_ text: String) -> Failure { Failure(code: -32000, message: text) }
        /// It would change something, and came by the socket for reading.
        static func readOnly(_ text: String) -> Failure { Failure(code: -32001, message: text) }
    }

    package struct Request: Codable {
        package var jsonrpc = "2.0"
        package var id: JSONValue?
        package var method: String
        package var params: JSONValue?
    }

    package struct Response: Codable {
        package var jsonrpc = "2.0"
        /// `null` where the request's could not be read.
        package var id: JSONValue
        package var result: JSONValue?
        package var error: Failure?

        fileprivate init(_ id: JSONValue, _ error: Failure) { (self.id, self.error) = (id, error) }
    }

    /// Answers one line; nil: nothing is to be said. `call` carries out a method with its parameters
    /// and gives its answer as JSON.
    package static func answer(
        _ line: Data, _ call: (_ method: String, _ params: [String: JSONValue]) throws(Failure) -> String
    ) -> String? {
        guard let document = try? JSONDecoder().decode(JSONValue.self, from: line) else {
            return text(Response(.null, .parse("this line is no JSON document; write one request a line")))
        }
        guard case .array(let batch) = document else { return respond(document, call) }
        if batch.isEmpty {
            return text(Response(.null, .request("a batch of nothing; write requests into it")))
        }
        let answers = batch.compactMap { respond($0, call) }
        return answers.isEmpty ? nil : "[\(answers.joined(separator: ","))]"
    }

    private static func respond(
        _ document: JSONValue, _ call: (String, [String: JSONValue]) throws(Failure) -> String
    ) -> String? {
        guard case .object(let members) = document else {
            return text(Response(.null, .request("a request is an object such as \(example)")))
        }
        var id = JSONValue.null
        switch members["id"] ?? .null {
        case .null, .string, .integer, .number: id = members["id"] ?? .null
        default: return text(Response(.null, .request("id: write a number or a string")))
        }
        do throws(Failure) {
            let result = try carryOut(members, call)
            // Without an id it is a notification, which has no answer.
            return members["id"] == nil ? nil : "{\"id\":\(text(id)),\"jsonrpc\":\"2.0\",\"result\":\(result)}"
        } catch {
            return members["id"] == nil && error.code != -32600 ? nil : text(Response(id, error))
        }
    }

    private static func carryOut(
        _ members: [String: JSONValue], _ call: (String, [String: JSONValue]) throws(Failure) -> String
    ) throws(Failure) -> String {
        if members["jsonrpc"] != .string("2.0") { throw .request("jsonrpc: write \"2.0\", as in \(example)") }
        guard case .string(let method)? = members["method"] else {
            throw .request("method: write its name, as in \(example)")
        }
        switch members["params"] ?? .object([:]) {
        case .object(let params): return try call(method, params)
        default: throw .parameters("params: write an object with the parameters by name")
        }
    }

    static let example = #"{"jsonrpc":"2.0","id":1,"method":"port.list"}"#

    /// A response to what could not be read.
    static func failure(_ failure: Failure) -> String { text(Response(.null, failure)) }

    private static func text(_ value: some Encodable) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // Results were encoded once already: there is no number that cannot be written.
        return (try? encoder.encode(value)).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }
}
