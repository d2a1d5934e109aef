import Memory

/// What keeps the sandbox from being what it should.
package struct SandboxError: Error, CustomStringConvertible {
    package let description: String
    init(_ place: String, _ code: Int32) { description = "\(place): \(SystemError.text(code))" }
    init(_ text: String) { description = text }
}
