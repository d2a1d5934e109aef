import Ringway

/// What a user writes on a command line, in a file or on a control socket to name a port. Nothing may trap, and an
/// error has to say something.
@Sendable func fuzzSyntax(_ given: Input) -> Int32 {
    var input = given
    let kind = input.byte()
    var bytes: [UInt8] = []
    while !input.isEmpty { bytes.append(input.byte()) }
    // Most begin as ports do.
    let kinds = ["", "vhost-user:/a,", "virtio-user:/a,", "tap:t,", "null:n,"]
    let text = kinds[Int(kind >> 3) % kinds.count] + String(decoding: bytes, as: UTF8.self)
    do {
        switch kind & 7 {
        case 0: _ = try PortSyntax.busyloop(text)
        case 1: _ = try PortSyntax.budgets(text)
        case 2: _ = try PortSyntax.cpus(text)
        case 3: _ = try PortSyntax.pacing(text)
        default:
            let port = try PortSyntax.port(text)
            precondition(!port.name.isEmpty, "a port without a name")
        }
    } catch {
        precondition(!"\(error)".isEmpty, "an error that says nothing")
    }
    return 0
}
