import Ringway

/// Any frames at ports with any options that can be together, in bursts, with time between them, and with other options
/// after a while. Nothing may trap. `SwitchJudge` says what may leave where: it looks at frames and options alone, and
/// knows nothing of how the switch decides.
@Sendable func fuzzSwitch(_ given: Input) -> Int32 {
    var input = given
    guard var members = makeMembers(&input) else { return 0 }
    var core = SwitchCore(members, ageing: 300, threads: 1)
    let harness = FunctionHarness(GuardedSwitch(core), ports: members.count)
    var judge = SwitchJudge(members)
    var steps = 0
    while !input.isEmpty && steps < 48 {
        steps += 1
        let what = input.byte()
        switch what {
        case 0..<8:
            guard let next = makeMembers(&input, count: members.count) else { continue }
            members = next
            core = SwitchCore(members, ageing: 300, threads: 1)
            harness.function = GuardedSwitch(core)
            judge = SwitchJudge(members)
        case 8..<16:
            harness.seconds += UInt32(input.byte())
            harness.ticks += UInt64(input.integer(UInt32.self))
            judge.isStill = false
        case 16..<20: _ = core.addresses.clear(port: nil, vlan: nil)
        default:
            let port = Int(what) % members.count
            let frames = (0...Int(input.byte() & 7)).map { makeFrame(&input, number: $0) }
            let pieces = what & 64 == 0 ? [] : [1, 1 + Int(input.byte() & 31)]
            judge.check(harness.process(frames, from: port, pieces: pieces), of: frames, from: port)
        }
    }
    return 0
}

/// Addresses of senders and receivers: six of hosts, a group, and all.
private func address(_ place: UInt8) -> [UInt8] {
    switch place & 7 {
    case 7: [UInt8](repeating: 0xff, count: 6)
    case 6: [0x01, 0x00, 0x5e, 0x00, 0x00, 0x01]
    default: [2, 0, 0, 0, 0, place & 7]
    }
}

private func host(_ place: UInt8) -> MACAddress { MACAddress(2, 0, 0, 0, 0, place % 6) }

/// Mostly one that may be.
private func vlan(_ input: inout Input) -> UInt16 {
    let n = input.byte()
    return n < 250 ? UInt16(1 + n % 3) : [0, 4094, 4095, 0xffff, 10, 100][Int(n) - 250]
}

private func limit(_ input: inout Input) -> RateLimit {
    var limit = RateLimit(packets: 1 + UInt64(input.byte() & 7))
    limit.packetBurst = 1 + UInt64(input.byte() & 7)
    if input.byte() & 7 == 0 { limit.bytes = 1000 }
    return limit
}

/// Two to five ports; nil where their options cannot be together, which an error has to say.
private func makeMembers(_ input: inout Input, count wanted: Int? = nil) -> [SwitchMember]? {
    let choice = input.byte()
    let count = wanted ?? 2 + Int(choice & 3)
    // A port that gets copies has no options of its own.
    let mirror = Int(choice >> 2 & 7)
    let members = (0..<count).map { place in
        let port = makePort(&input, place, mirror: mirror < count ? mirror : nil)
        return SwitchMember("\(place)", mac: choice & 32 == 0 ? nil : host(UInt8(place)), port)
    }
    do throws(EngineError) { try SwitchMember.check(members) } catch {
        precondition(!"\(error)".isEmpty, "an error that says nothing")
        return nil
    }
    return members
}

private func makePort(_ input: inout Input, _ place: Int, mirror: Int?) -> SwitchPort {
    var port = SwitchPort()
    let bits = input.integer(UInt32.self)
    func has(_ bit: UInt32) -> Bool { bits >> bit & 1 != 0 }
    if has(0) { port.limitOut = limit(&input) }
    if place == mirror { return port }
    switch bits >> 1 & 3 {
    case 0: port.vlans = .all
    case 1: port.vlans = .access(vlan(&input))
    default:
        let list = has(3) ? nil : Set((0..<Int(input.byte() & 3)).map { _ in vlan(&input) })
        port.vlans = .trunk(list, native: has(4) ? vlan(&input) : nil)
    }
    (port.isIsolated, port.isSticky, port.checksSource) = (has(5), has(6), has(7) && has(8))
    if has(8) { port.addresses = [host(UInt8(place))] }
    if has(9) { port.addressLimit = 1 + Int(input.byte() & 3) }
    (port.inspects, port.checksIP) = (has(10), has(11))
    if port.inspects || port.checksIP {
        port.ipv4 = [IPv4Prefix("10.0.0.\(place)")!]
        if has(12) { port.ipv6 = [IPv6Prefix("2001:db8::/64")!] }
    }
    if has(13) { port.limitIn = limit(&input) }
    if has(14) { port.limitFlooding = limit(&input) }
    if let mirror {
        if has(18) { port.mirrorIn = "\(mirror)" }
        if has(19) { port.mirrorOut = "\(mirror)" }
    }
    return port
}

/// Any, but most have headers that could be right; the last byte is its number in the burst.
private func makeFrame(_ input: inout Input, number: Int) -> [UInt8] {
    let addresses = input.byte()
    let source = address(addresses >> 3)
    var frame = address(addresses) + source
    let form = input.byte()
    for _ in 0..<Int(form & 3) {
        let control = UInt16(input.byte() & 0xe0) << 8 | (form & 4 == 0 ? vlan(&input) : 0) & 0xfff
        frame += [form & 8 == 0 ? 0x81 : 0x88, form & 8 == 0 ? 0x00 : 0xa8, UInt8(control >> 8), UInt8(control & 255)]
    }
    let owner = UInt8(input.byte() % 5)
    switch form >> 4 & 7 {
    case 0: frame += [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1 + (owner & 1)] + source + [10, 0, 0, owner]
    case 1: frame += [0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, owner]
    case 2: frame += [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255, 0x20, 0x01, 0x0d, 0xb8]
    case 3: frame += [input.byte(), input.byte()]
    default: frame += [0x88, 0xb5]
    }
    for _ in 0..<Int(input.byte() & 63) { frame.append(input.byte()) }
    if form & 128 != 0 { frame.removeLast(min(frame.count, Int(input.byte() & 31))) }
    return frame + [UInt8(number)]
}

/// What may leave at which port: VLANs as IEEE 802.1Q has them, and the options one by one.
private struct SwitchJudge {
    /// No time has passed, and rates have let through no more than what they let through at once.
    var isStill = true
    private let members: [SwitchMember]
    private let mirrors: Set<Int>
    /// Packets that came in, went out and were flooded, where there are limits.
    private var (cameIn, wentOut, flooded): ([Int: Int], [Int: Int], [Int: Int]) = ([:], [:], [:])

    init(_ members: [SwitchMember]) {
        self.members = members
        mirrors = Set(members.flatMap { [$0.port.mirrorIn, $0.port.mirrorOut].compactMap { $0.flatMap { Int($0) } } })
    }

    mutating func check(
        _ outputs: [FunctionHarness<GuardedSwitch>.Output], of frames: [[UInt8]], from port: Int
    ) {
        precondition(outputs.count >= frames.count && !outputs[..<frames.count].contains(where: \.isMade))
        for (i, frame) in frames.enumerated() {
            let all = outputs.filter { $0.frame.last == UInt8(i) }
            let leaving = all.flatMap { out in out.ports.map { (port: $0, frame: out.frame) } }
            precondition(Set(leaving.map(\.port)).count == leaving.count, "one port got it twice")
            precondition(leaving.isEmpty || frame.count >= 14, "a frame that is too short")
            check(leaving, frame, from: port)
        }
        precondition(outputs.allSatisfy { $0.ports.isEmpty || Int($0.frame.last!) < frames.count })
        if !isStill { return }
        for (place, member) in members.enumerated() {
            bound(cameIn[place], member.port.limitIn)
            bound(wentOut[place], member.port.limitOut)
            bound(flooded[place], member.port.limitFlooding)
        }
    }

    private func bound(_ count: Int?, _ limit: RateLimit?) {
        guard let most = limit?.packetBurst else { return }
        precondition(count ?? 0 <= Int(most), "more than a limit lets through at once")
    }

    private mutating func check(_ leaving: [(port: Int, frame: [UInt8])], _ frame: [UInt8], from port: Int) {
        for (to, form) in leaving {
            precondition(to != port && bare(form) == bare(frame), "back, or another frame than came in")
            wentOut[to, default: 0] += 1
        }
        let receivers = leaving.filter { !mirrors.contains($0.port) }
        for (to, _) in leaving where mirrors.contains(to) {
            let watched = receivers.contains { members[$0.port].port.mirrorOut == "\(to)" }
            precondition(watched || members[port].port.mirrorIn == "\(to)", "a copy of what nobody watches")
        }
        if receivers.isEmpty { return }
        cameIn[port, default: 0] += 1
        if frame[0] & 1 != 0 { flooded[port, default: 0] += 1 }
        precondition(!mirrors.contains(port), "from a port that gets copies alone")
        guard let vlan = vlan(of: frame, at: port) else { preconditionFailure("a frame that may not come in") }
        checkClaims(frame, port, vlan)
        for (to, form) in receivers {
            precondition(self.vlan(of: form, at: to) == vlan, "in another VLAN than it came in")
            precondition(!(members[port].port.isIsolated && members[to].port.isIsolated), "between isolated ports")
            let hasTag = number(form, 12) == 0x8100
            precondition(vlan == 0 || hasTag == (untagged(to) != vlan), "a tag where there is none, or none")
        }
        if let owner = owner(of: Array(frame[..<6]), vlan) {
            precondition(receivers.allSatisfy { $0.port == owner }, "past the owner of its address")
        }
    }

    /// What a frame that went through says of its sender.
    private func checkClaims(_ frame: [UInt8], _ port: Int, _ vlan: UInt16) {
        let source = Array(frame[6..<12])
        let options = members[port].port
        if let owner = owner(of: source, vlan) { precondition(owner == port, "from the address of another port") }
        if options.checksSource {
            let own = options.addresses + [members[port].mac].compactMap(\.self)
            precondition(own.contains { bytes($0) == source }, "from an address that is not its own")
        }
        let at = number(frame, 12) == 0x8100 ? 18 : 14
        let place = UInt8(port)
        if options.inspects && number(frame, at - 2) == 0x0806 {
            precondition(frame.count >= at + 28 && Array(frame[at + 8..<at + 14]) == source, "ARP of another sender")
            let claim = Array(frame[at + 14..<at + 18])
            precondition(claim == [10, 0, 0, place] || claim == [0, 0, 0, 0], "ARP for an address of another")
        }
        if options.checksIP && number(frame, at - 2) == 0x0800 {
            precondition(frame.count >= at + 20, "an IP header that is not there")
            let claim = Array(frame[at + 12..<at + 16])
            precondition(claim == [10, 0, 0, place] || claim == [0, 0, 0, 0], "from the IP address of another")
        }
    }

    /// Whose a static address is in a VLAN.
    private func owner(of mac: [UInt8], _ vlan: UInt16) -> Int? {
        members.indices.first { place in
            members[place].port.addresses.contains { bytes($0) == mac } && isMember(place, vlan)
        }
    }

    private func isMember(_ port: Int, _ vlan: UInt16) -> Bool {
        if mirrors.contains(port) { return false }
        switch members[port].port.vlans {
        case .all: return true
        case .access(let own): return vlan == own
        case .trunk(let list, let native): return vlan == native || vlan != 0 && list?.contains(vlan) ?? true
        }
    }

    /// VLAN of frames without a tag.
    private func untagged(_ port: Int) -> UInt16? {
        switch members[port].port.vlans {
        case .all: 0
        case .access(let vlan): vlan
        case .trunk(_, let native): native
        }
    }

    /// In which VLAN who has these options sees a frame; nil: in none.
    private func vlan(of frame: [UInt8], at port: Int) -> UInt16? {
        let isTagged = number(frame, 12) == 0x8100
        guard let control = isTagged ? number(frame, 14) : 0, let type = number(frame, isTagged ? 16 : 12) else {
            return nil
        }
        let tag = control & 0xfff
        if tag != 0 {
            if case .access = members[port].port.vlans { return nil }
            return tag < 0xfff && isMember(port, tag) ? tag : nil
        }
        // Behind a tag that is none, another one would be seen by the next.
        let isHidden = [0x8100, 0x88a8].contains(type)
        guard let vlan = untagged(port), !isHidden || vlan == 0 else { return nil }
        return vlan
    }

    /// A frame without its first tag.
    private func bare(_ frame: [UInt8]) -> [UInt8] {
        frame.count >= 18 && number(frame, 12) == 0x8100 ? Array(frame[..<12] + frame[16...]) : frame
    }

    private func number(_ frame: [UInt8], _ at: Int) -> UInt16? {
        frame.count >= at + 2 ? UInt16(frame[at]) << 8 | UInt16(frame[at + 1]) : nil
    }

    private func bytes(_ mac: MACAddress) -> [UInt8] {
        (0..<6).map { UInt8(truncatingIfNeeded: mac.rawValue >> UInt64(8 * $0)) }
    }
}
