import Console
import Operation

extension Successor {
    /// Ends the program where there is none that could be followed.
    static func find(_ path: String) -> Successor {
        do { return try Successor(path) } catch { fail("\(error)") }
    }
}
