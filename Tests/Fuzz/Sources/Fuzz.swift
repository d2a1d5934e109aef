import Glibc

/// libFuzzer has the main function; tools/fuzz names the target in RINGWAY_FUZZ.
private let target: @Sendable (Input) -> Int32 = {
    let name = getenv("RINGWAY_FUZZ").map { String(cString: $0) } ?? ""
    switch name {
    case "rings": return fuzzRings
    case "records": return fuzzRecords
    case "driver": return fuzzDriver
    case "session": return fuzzSession
    case "answers": return fuzzAnswers
    case "syntax": return fuzzSyntax
    case "headers": return fuzzHeaders
    case "edits": return fuzzEdits
    case "switch": return fuzzSwitch
    case "settings": return fuzzSettings
    case "requests": return fuzzRequests
    default:
        print(
            "fuzz: no target '\(name)'; RINGWAY_FUZZ is one of: rings, records, driver, session, answers, headers, "
                + "edits, syntax, switch, settings, requests")
        exit(64)
    }
}()

/// One input. Ends the process where a sanitizer or a trap finds something.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> Int32 { target(Input(bytes, count)) }
