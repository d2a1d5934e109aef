import Ringway
import Testing

/// A switch whose ports have options, without an engine.
struct SwitchBench {
    let core: SwitchCore
    let harness: FunctionHarness<GuardedSwitch>

    /// Ports are called "0", "1" and so on; port *n*'s driver was offered the address 02:00:00:00:09:*n*.
    init(_ ports: [SwitchPort], ageing: Int = 300, threads: Int = 1) throws {
        let members = SwitchBench.members(ports)
        try SwitchMember.check(members)
        core = SwitchCore(members, ageing: ageing, threads: threads)
        harness = FunctionHarness(GuardedSwitch(core), ports: ports.count)
    }

    static func members(_ ports: [SwitchPort]) -> [SwitchMember] {
        ports.enumerated().map {
            SwitchMember("\($0)", mac: MACAddress(2, 0, 0, 0, UInt8(9 + $0 / 256), UInt8($0 % 256)), $1)
        }
    }

    /// What becomes of one frame: where it goes, and in which form; or why it does not.
    func send(_ frame: [UInt8], from port: Int) -> [String] {
        harness.process([frame], from: port).flatMap { out in
            if let cause = out.cause { return [cause] }
            return out.ports.map { to in "\(to)\(SwitchBench.tag(out.frame).map { ":\($0)" } ?? "")" }
        }.sorted()
    }

    /// The VLAN of a frame's tag.
    static func tag(_ frame: [UInt8]) -> Int? {
        frame.count >= 18 && frame[12] == 0x81 && frame[13] == 0 ? Int(frame[14] & 15) << 8 | Int(frame[15]) : nil
    }

    /// 46 bytes of payload; tags: their control information.
    static func frame(
        to: UInt8 = 0xff, from: UInt8, tags: [UInt16] = [], type: [UInt8] = [0x88, 0xb5], _ payload: [UInt8]? = nil
    ) -> [UInt8] {
        let destination = to == 0xff ? Frame.broadcast : Frame.mac(to)
        let tags = tags.flatMap { [0x81, 0x00, UInt8($0 >> 8), UInt8($0 & 255)] }
        return destination + Frame.mac(from) + tags + type + (payload ?? (0..<46).map { UInt8($0) })
    }

    static func access(_ vlan: UInt16, _ change: (inout SwitchPort) -> Void = { _ in }) -> SwitchPort {
        port(.access(vlan), change)
    }

    static func port(_ vlans: SwitchPort.VLANs = .all, _ change: (inout SwitchPort) -> Void = { _ in }) -> SwitchPort {
        var port = SwitchPort()
        port.vlans = vlans
        change(&port)
        return port
    }
}

private typealias B = SwitchBench

@Suite struct SwitchVLANTests {
    @Test("access and trunk ports: a flooded frame has a tag where it must, and reaches its VLAN alone")
    func flooding() throws {
        let b = try B([
            B.access(10), B.access(10), B.access(20), B.port(.trunk([10, 20], native: nil)),
            B.port(.trunk([20, 30], native: 10)),
        ])
        #expect(b.send(B.frame(from: 1), from: 0) == ["1", "3:10", "4"])
        #expect(b.send(B.frame(from: 2), from: 2) == ["3:20", "4:20"])
        #expect(b.send(B.frame(from: 3, tags: [10]), from: 3) == ["0", "1", "4"])
        #expect(b.send(B.frame(from: 4), from: 4) == ["0", "1", "3:10"])
        #expect(b.send(B.frame(from: 4, tags: [30]), from: 4) == ["no port"])
        // Trunks have a tag for all but their native VLAN.
        #expect(b.send(B.frame(from: 5), from: 3) == ["wrong VLAN"])
        #expect(b.send(B.frame(from: 5, tags: [30]), from: 3) == ["wrong VLAN"])
        // The native VLAN's frames may have it.
        #expect(b.send(B.frame(from: 6, tags: [10]), from: 4) == ["0", "1", "3:10"])
    }

    @Test("the whole frame of each receiver, priorities stay", arguments: FunctionHarnessTests.pieces)
    func frames(_ pieces: [Int]) throws {
        let b = try B([B.access(10), B.port(.trunk([10], native: nil)), B.access(10)])
        let tagged = B.frame(from: 1, tags: [0xb00a])
        let plain = B.frame(from: 1)
        let out = b.harness.process([tagged], from: 1, pieces: pieces)
        #expect(out == [.init(plain, to: [0, 2])])
        let priority = B.frame(from: 2, tags: [0xe000])
        let both = b.harness.process([priority], from: 0, pieces: pieces)
        #expect(
            both == [.init(B.frame(from: 2), to: [2]), .init(B.frame(from: 2, tags: [0xe00a]), to: [1], isMade: true)])
        // From a trunk with a native VLAN, a priority tag alone becomes the VLAN's.
        let c = try B([B.port(.trunk([], native: 10)), B.port(.trunk([10], native: nil))])
        #expect(
            c.harness.process([priority], from: 0, pieces: pieces) == [.init(B.frame(from: 2, tags: [0xe00a]), to: [1])]
        )
    }

    @Test(
        "a packet of a burst goes where it goes alone, whatever came before it", arguments: FunctionHarnessTests.pieces)
    func bursts(_ pieces: [Int]) throws {
        let ports: [SwitchPort] = [
            B.access(10), B.access(10), B.port(.trunk([10, 20], native: nil)), B.port(.trunk([20], native: 10)),
            B.port(),
            B.access(10) { $0.isIsolated = true }, B.access(10) { $0.mirrorIn = "8" },
            B.access(10) { $0.mirrorOut = "8" },
            B.port(),
        ]
        var frames: [[UInt8]] = []
        for to in [1, 2, 3, 4, 6, 7, 8, 99] as [UInt8] {
            for tags in [[], [10], [20], [0xe00a], [0xe000], [0], [10, 20], [0, 10]] as [[UInt16]] {
                for type in [[0x88, 0xb5], [0, 0], [0x88, 0xa8]] as [[UInt8]] {
                    frames.append(B.frame(to: to, from: 0x40, tags: tags, type: type))
                }
            }
            frames.append(B.frame(to: to, from: 0x40)[..<12] + [0x81, 0])
            frames.append(B.frame(to: to, from: 0x40)[..<12] + [0x81, 0, 0, 0, 0])
        }
        frames.append([UInt8](repeating: 0, count: 60))
        /// Port *n* has the address *n* + 1, and VLAN 20's ports the address 4.
        func bench() throws -> B {
            let b = try B(ports)
            for port in ports.indices { _ = b.send(B.frame(from: UInt8(port + 1)), from: port) }
            _ = b.send(B.frame(from: 4, tags: [20]), from: 2)
            return b
        }
        for port in ports.indices {
            let b = try bench()
            // All addresses are known, also those that these frames come from.
            for frame in frames { _ = b.send(frame, from: port) }
            func judge(_ all: [[UInt8]]) -> [FunctionHarness<GuardedSwitch>.Output] {
                b.harness.process(all, from: port, pieces: pieces).filter { !$0.isMade }
            }
            let alone = frames.map { judge([$0])[0] }
            for k in frames.indices {
                let other = (k * 7 + 3) % frames.count
                let burst = judge([frames[k], frames[k], frames[other], frames[k], frames[other], frames[other]])
                let wanted = [k, k, other, k, other, other].map { alone[$0] }
                #expect(burst == wanted, "from \(port): \(frames[k]), \(frames[other])")
            }
        }
    }

    @Test("an address is learned in its VLAN alone")
    func learning() throws {
        let b = try B([B.access(10), B.access(20), B.port(.trunk(nil, native: nil)), B.access(10), B.access(20)])
        _ = b.send(B.frame(from: 1), from: 0)
        _ = b.send(B.frame(from: 1), from: 1)
        #expect(b.send(B.frame(to: 1, from: 2, tags: [10]), from: 2) == ["0"])
        #expect(b.send(B.frame(to: 1, from: 2, tags: [20]), from: 2) == ["1"])
        #expect(b.send(B.frame(to: 2, from: 3), from: 3) == ["2:10"])
        #expect(b.send(B.frame(to: 2, from: 3), from: 4) == ["2:20"])
        #expect(b.send(B.frame(to: 1, from: 3, tags: [30]), from: 2) == ["no port"])
        #expect(b.send(B.frame(to: 1, from: 1), from: 0) == ["same port"])
        // It moves, and is forgotten.
        _ = b.send(B.frame(from: 1), from: 3)
        #expect(b.send(B.frame(to: 1, from: 2, tags: [10]), from: 2) == ["3"])
        b.harness.seconds += 301
        #expect(b.send(B.frame(to: 1, from: 2, tags: [10]), from: 2) == ["0", "3"])
        #expect(b.core.addresses.entries(seconds: b.harness.seconds).map(\.port) == [2])
        #expect(b.harness.counter("addresses moved") == 1)
        #expect(b.harness.counter("addresses learned") == 7)
    }

    @Test("no way from one VLAN to another: tags in tags, priority tags, VLAN 4095, tags at access ports")
    func hopping() throws {
        let b = try B([B.access(1), B.port(.trunk(nil, native: 1)), B.access(20), B.port(.trunk(nil, native: nil))])
        #expect(b.send(B.frame(from: 1, tags: [20]), from: 0) == ["wrong VLAN"])
        #expect(b.send(B.frame(from: 1, tags: [1]), from: 0) == ["wrong VLAN"])
        // The native VLAN's tag would go, and the next switch see the other one.
        #expect(b.send(B.frame(from: 1, tags: [0, 20]), from: 0) == ["inner VLAN tag"])
        #expect(b.send(B.frame(from: 1, tags: [0, 20]), from: 1) == ["inner VLAN tag"])
        #expect(b.send(B.frame(from: 1, tags: [1, 20]), from: 3) == ["inner VLAN tag"])
        #expect(b.send(B.frame(from: 1, tags: [1, 20]), from: 1) == ["3:1"])
        #expect(b.send(B.frame(from: 1, tags: [20, 1]), from: 3) == ["1:20"])
        let service = B.frame(from: 1, type: [0x88, 0xa8], [0, 20] + [UInt8](repeating: 0, count: 44))
        #expect(b.send(service, from: 0) == ["inner VLAN tag"])
        for tag: UInt16 in [0x0fff, 0xffff] {
            #expect(b.send(B.frame(from: 1, tags: [tag]), from: 1) == ["wrong VLAN"])
        }
        // A known address does not change that.
        _ = b.send(B.frame(from: 9), from: 0)
        #expect(b.send(B.frame(to: 9, from: 1, tags: [1, 20]), from: 3) == ["inner VLAN tag"])
    }

    @Test("a port without VLANs is a trunk of all of them; frames without a tag are among such ports")
    func plain() throws {
        let b = try B([B.port(), B.port { $0.isIsolated = true }, B.access(5)])
        #expect(b.send(B.frame(from: 1), from: 0) == ["1"])
        #expect(b.send(B.frame(from: 1, tags: [5]), from: 0) == ["1:5", "2"])
        #expect(b.send(B.frame(from: 2), from: 2) == ["0:5", "1:5"])
        #expect(b.send(B.frame(to: 1, from: 3), from: 1) == ["0"])
        // As the plain switch: tags of a priority alone, and a service provider's, stay.
        let priority = B.frame(from: 1, tags: [0xa000])
        #expect(b.harness.process([priority], from: 0) == [.init(priority, to: [1])])
        let service = B.frame(from: 1, type: [0x88, 0xa8], [0, 20] + [UInt8](repeating: 0, count: 44))
        #expect(b.harness.process([service], from: 0) == [.init(service, to: [1])])
    }

    @Test("frames that end in their headers, whatever they are spread over", arguments: FunctionHarnessTests.pieces)
    func truncated(_ pieces: [Int]) throws {
        var every = B.port { $0.checksIP = true }
        (every.inspects, every.ipv4, every.ipv6) = (true, [.all], [.all])
        let b = try B([every, B.access(10), B.port(.trunk(nil, native: 3))])
        let whole = [
            B.frame(from: 1, tags: [10]), B.frame(from: 1, type: [8, 6]),
            B.frame(from: 1, tags: [10, 10], type: [0x86, 0xdd]),
            B.frame(from: 1, tags: [0], type: [8, 0]), B.frame(from: 1, tags: [10, 10, 10, 10]),
        ]
        for frame in whole {
            for length in 0...frame.count {
                for port in 0..<3 {
                    let out = b.harness.process([Array(frame[..<length])], from: port, pieces: pieces)
                    if length < 14 || length < 18 && frame[12] == 0x81 { #expect(out.allSatisfy { $0.ports.isEmpty }) }
                }
            }
        }
    }

    @Test("checksums and segments that are still to be made follow the tags; offsets that lie are dropped")
    func offloads() throws {
        let b = try B([B.access(10), B.port(.trunk([10], native: nil)), B.access(10)])
        var header = NetHeader()
        (header.flags, header.csumStart, header.csumOffset, header.hdrLen) = (NetHeader.needsCsum, 34, 16, 54)
        (header.gsoType, header.gsoSize) = (NetHeader.gsoTCPv4, 10)
        let out = b.harness.process([B.frame(from: 1)], from: 0, header: header)
        #expect(
            out.map(\.ports) == [[2], [1]] && out.map(\.header.csumStart) == [34, 38]
                && out.map(\.header.hdrLen) == [54, 58])
        let back = b.harness.process([out[1].frame], from: 1, header: out[1].header)
        #expect(back.map(\.header) == [header] && back[0].frame == B.frame(from: 1))
        header.csumStart = 2
        #expect(b.harness.process([out[1].frame], from: 1, header: header).map(\.cause) == ["malformed"])
        header.csumStart = 509
        #expect(b.harness.process([B.frame(from: 1)], from: 0, header: header).allSatisfy { $0.ports.isEmpty })
    }

    @Test("64 packets of a burst can all be copied, to 128 different sets of ports")
    func wholeBurst() throws {
        // VLAN 100 + n is everywhere but on two ports of its own.
        let vlans = Set<UInt16>(100..<164)
        func native(_ n: Int) -> Int { n % 2 == 0 ? n / 2 : 32 + n / 2 }
        var ports = [B.port(.trunk(vlans, native: nil))]
        for n in 0..<64 {
            ports.append(B.port(.trunk(vlans.subtracting([UInt16(100 + n)]), native: UInt16(100 + native(n)))))
        }
        let b = try B(ports)
        let out = b.harness.process((0..<64).map { B.frame(from: 1, tags: [100 + $0]) }, from: 0)
        #expect(out.count == 128 && out.allSatisfy { !$0.ports.isEmpty })
        for n in 0..<64 {
            let (tagged, plain) = (out[n], out[64 + n])
            #expect(B.tag(tagged.frame) == 100 + n && B.tag(plain.frame) == nil)
            let natives = (0..<64).filter { native($0) == n }.map { $0 + 1 }
            #expect(plain.ports == natives)
            #expect(tagged.ports == (1...64).filter { $0 != n + 1 && !natives.contains($0) })
        }
    }
}

@Suite struct SwitchGuardTests {
    @Test("isolated ports reach others, not each other")
    func isolated() throws {
        let i = B.port { $0.isIsolated = true }
        let b = try B([i, i, B.port(), B.port()])
        #expect(b.send(B.frame(from: 1), from: 0) == ["2", "3"])
        #expect(b.send(B.frame(from: 2), from: 1) == ["2", "3"])
        #expect(b.send(B.frame(from: 3), from: 2) == ["0", "1", "3"])
        #expect(b.send(B.frame(to: 2, from: 1), from: 0) == ["isolated"])
        #expect(b.send(B.frame(to: 1, from: 3), from: 2) == ["0"])
        #expect(b.send(B.frame(to: 3, from: 1), from: 0) == ["2"])
    }

    @Test("static addresses are known from the start, stay, and are nobody else's")
    func permanent() throws {
        let s = B.access(10) { $0.addresses = [MACAddress(2, 0, 0, 0, 0, 1), MACAddress(2, 0, 0, 0, 0, 2)] }
        let b = try B([s, B.access(10), B.port(), B.access(20), B.access(20)], ageing: 10)
        #expect(b.send(B.frame(to: 1, from: 9), from: 1) == ["0"])
        #expect(b.send(B.frame(to: 2, from: 8, tags: [10]), from: 2) == ["0"])
        #expect(b.send(B.frame(from: 1), from: 1) == ["address of another port"])
        #expect(b.send(B.frame(from: 1, tags: [10]), from: 2) == ["address of another port"])
        // Its port has no part in VLAN 20.
        #expect(b.send(B.frame(from: 1), from: 3) == ["2:20", "4"])
        #expect(b.send(B.frame(to: 1, from: 7), from: 4) == ["3"])
        #expect(b.send(B.frame(to: 2, from: 7), from: 4) == ["2:20", "3"])
        #expect(b.send(B.frame(from: 1), from: 0) == ["1", "2:10"])
        // Others may be learned there.
        #expect(
            b.send(B.frame(from: 3), from: 0) == ["1", "2:10"] && b.send(B.frame(to: 3, from: 9), from: 1) == ["0"])
        b.harness.seconds += 1000
        b.core.addresses.forget(port: 0)
        _ = b.core.addresses.clear(port: nil, vlan: nil)
        #expect(b.send(B.frame(to: 1, from: 9), from: 1) == ["0"])
        let all = b.core.addresses.entries(seconds: b.harness.seconds)
        #expect(all.filter { $0.kind == .permanent }.map(\.vlan) == [nil, nil] && all.count == 3)
    }

    @Test("a static address of a port that comes later is no more where it was learned; other addresses stay")
    func laterStatic() throws {
        let few = SwitchBench.members([B.access(10), B.access(10), B.access(20)])
        let old = SwitchCore(few, places: 5, ageing: 300, threads: 1)
        let before = FunctionHarness(GuardedSwitch(old), ports: 3)
        for (mac, port) in [(7, 0), (8, 0), (7, 2)] as [(UInt8, Int)] {
            _ = before.process([B.frame(from: mac)], from: port)
        }
        #expect(before.process([B.frame(to: 7, from: 9)], from: 1).flatMap(\.ports) == [0])
        let owner = B.access(10) { $0.addresses = [MACAddress(2, 0, 0, 0, 0, 7)] }
        let members = SwitchBench.members([B.access(10), B.access(10), B.access(20), owner, B.access(20)])
        let core = SwitchCore(members, places: 5, ageing: 300, threads: 1, after: old)
        let harness = FunctionHarness(GuardedSwitch(core), ports: 5)
        func ports(to mac: UInt8, from port: Int) -> [Int] {
            harness.process([B.frame(to: mac, from: 9)], from: port).flatMap(\.ports)
        }
        #expect(ports(to: 7, from: 1) == [3])
        #expect(ports(to: 8, from: 1) == [0])
        // In a VLAN that the owner is not in it is somebody else's.
        #expect(ports(to: 7, from: 4) == [2])
        #expect(harness.process([B.frame(from: 7)], from: 0).compactMap(\.cause) == ["address of another port"])
    }

    @Test("64 static addresses on each of 256 ports all find their place")
    func many() throws {
        let ports = (0..<256).map { p in
            B.port { $0.addresses = (0..<64).map { MACAddress(2, 0, 0, 1, UInt8(p), $0) } }
        }
        let b = try B(ports)
        #expect(b.core.addresses.entries(seconds: 1).count == 256 * 64)
        for p in [0, 1, 77, 255] {
            for n in 0..<64 {
                let frame = [2, 0, 0, 1, UInt8(p), UInt8(n)] + B.frame(from: 9)[6...]
                #expect(b.send(frame, from: p == 200 ? 201 : 200) == ["\(p)"])
            }
        }
    }

    @Test("sticky addresses neither move nor age, one unless more are allowed; who clears them lets others in")
    func sticky() throws {
        let b = try B(
            [B.port { $0.isSticky = true }, B.port { ($0.isSticky, $0.addressLimit) = (true, 3) }, B.port()], ageing: 10
        )
        #expect(b.send(B.frame(from: 1), from: 0) == ["1", "2"])
        #expect(b.send(B.frame(from: 2), from: 0) == ["too many addresses"])
        #expect(b.send(B.frame(to: 1, from: 9), from: 2) == ["0"])
        #expect(b.send(B.frame(from: 1), from: 2) == ["address of another port"])
        #expect(b.send(B.frame(from: 1), from: 1) == ["address of another port"])
        for n in UInt8(10)...12 { #expect(b.send(B.frame(from: n), from: 1) == ["0", "2"]) }
        #expect(b.send(B.frame(from: 13), from: 1) == ["too many addresses"])
        b.harness.seconds += 1000
        #expect(b.send(B.frame(to: 1, from: 9), from: 2) == ["0"])
        #expect(b.send(B.frame(from: 13), from: 1) == ["too many addresses"])
        // A guest that starts anew is the same guest.
        b.core.addresses.forget(port: 0)
        #expect(b.send(B.frame(from: 2), from: 0) == ["too many addresses"])
        #expect(b.core.addresses.entries(seconds: 1).filter { $0.kind == .sticky }.count == 4)
        #expect(b.core.addresses.clear(port: 0, vlan: nil) == 1)
        #expect(b.send(B.frame(from: 2), from: 0) == ["1", "2"])
        #expect(b.send(B.frame(from: 1), from: 0) == ["too many addresses"])
        // An address that was learned elsewhere, and does not stay there, comes over.
        #expect(b.core.addresses.clear(port: 1, vlan: 0) == 3)
        #expect(
            b.send(B.frame(from: 9), from: 1) == ["0", "2"]
                && b.send(B.frame(from: 9), from: 2) == ["address of another port"])
    }

    @Test("a limit of addresses: expired ones make room, group addresses are none")
    func limit() throws {
        let b = try B([B.port { $0.addressLimit = 2 }, B.port()], ageing: 10)
        for n in UInt8(1)...2 { #expect(b.send(B.frame(from: n), from: 0) == ["1"]) }
        #expect(b.send(B.frame(from: 3), from: 0) == ["too many addresses"])
        #expect(b.send(B.frame(from: 1, tags: [7]), from: 0) == ["too many addresses"])
        #expect(b.send(Frame.broadcast + [3, 0, 0, 0, 0, 1] + B.frame(from: 1)[12...], from: 0) == ["spoofed source"])
        b.harness.seconds += 6
        #expect(b.send(B.frame(from: 2), from: 0) == ["1"])
        b.harness.seconds += 6
        #expect(b.send(B.frame(from: 3), from: 0) == ["1"])
        #expect(b.send(B.frame(from: 1), from: 0) == ["too many addresses"])
        // One moves away, and another has its place.
        #expect(b.send(B.frame(from: 2), from: 1) == ["0"])
        b.harness.seconds += 1
        #expect(b.send(B.frame(from: 1), from: 0) == ["1"])
    }

    @Test("anti-spoofing: a port's own addresses and no others")
    func spoofing() throws {
        let b = try B([
            B.port { $0.checksSource = true },
            B.port { ($0.checksSource, $0.addresses) = (true, [MACAddress(2, 0, 0, 0, 0, 7)]) }, B.port(),
        ])
        let own = Frame.broadcast + [2, 0, 0, 0, 9, 0] + B.frame(from: 1)[12...]
        #expect(b.send(own, from: 0) == ["1", "2"])
        #expect(b.send(B.frame(from: 1), from: 0) == ["spoofed source"])
        #expect(b.send(B.frame(from: 7), from: 1) == ["0", "2"])
        #expect(b.send(Frame.broadcast + [2, 0, 0, 0, 9, 1] + own[12...], from: 1) == ["0", "2"])
        #expect(b.send(own, from: 1) == ["spoofed source"])
        #expect(b.send(Frame.broadcast + [3, 0, 0, 0, 9, 1] + own[12...], from: 1) == ["spoofed source"])
        #expect(b.send(B.frame(from: 1), from: 2) == ["0", "1"])
    }

    @Test("a port that invents addresses pushes out none of its neighbours', sticky or not")
    func attack() throws {
        let b = try B([B.port(), B.port(), B.port { ($0.isSticky, $0.addressLimit) = (true, 64) }, B.port()])
        for n in 0..<50 {
            _ = b.send(B.frame(from: UInt8(n)), from: 1)
            _ = b.send(B.frame(from: UInt8(100 + n)), from: 2)
        }
        let frames = (0..<64_000).map { n in
            Frame.broadcast + [6, 1, 1, 1, UInt8(n >> 8), UInt8(n & 255)] + B.frame(from: 1)[12...]
        }
        _ = b.harness.process(frames, from: 0)
        #expect((0..<50).allSatisfy { b.send(B.frame(to: UInt8($0), from: 200), from: 3) == ["1"] })
        #expect((0..<50).allSatisfy { b.send(B.frame(to: UInt8(100 + $0), from: 200), from: 3) == ["2"] })
    }
}

@Suite struct SwitchInspectionTests {
    private static func bench(_ change: (inout SwitchPort) -> Void) throws -> SwitchBench {
        let port = B.port(.trunk([4], native: 3)) {
            ($0.inspects, $0.addresses) = (true, [MACAddress(2, 0, 0, 0, 0, 1)])
            ($0.ipv4, $0.ipv6) = ([IPv4Prefix("192.0.2.1")!, IPv4Prefix("10.0.0.0/8")!], [IPv6Prefix("2001:db8::1")!])
            change(&$0)
        }
        return try B([port, B.port(.trunk(nil, native: 3))])
    }

    private static func ip(_ text: String) -> [UInt8] {
        if let v4 = IPv4Address(text) {
            return (0..<4).map { UInt8(truncatingIfNeeded: v4.rawValue >> UInt32(24 - 8 * $0)) }
        }
        let v6 = IPv6Address(text)!
        return [v6.high, v6.low].flatMap { half in
            (0..<8).map { UInt8(truncatingIfNeeded: half >> UInt64(56 - 8 * $0)) }
        }
    }

    private static func arp(
        _ operation: UInt8, _ ip: String, sender: UInt8 = 1, type: [UInt8] = [8, 6], tags: [UInt16] = []
    ) -> [UInt8] {
        B.frame(
            from: 1, tags: tags, type: type,
            [0, 1, 8, 0, 6, 4, 0, operation] + Frame.mac(sender) + SwitchInspectionTests.ip(ip) + Frame.mac(9)
                + SwitchInspectionTests.ip("192.0.2.9"))
    }

    @Test("ARP: sender addresses are the port's", arguments: [[], [12], [20, 3, 3]])
    func arp(_ pieces: [Int]) throws {
        let b = try SwitchInspectionTests.bench { _ in }
        func cause(_ frame: [UInt8]) -> String? { b.harness.process([frame], from: 0, pieces: pieces)[0].cause }
        let spoofed = "spoofed ARP or ND"
        for operation in UInt8(1)...2 {
            #expect(cause(SwitchInspectionTests.arp(operation, "192.0.2.1")) == nil)
            #expect(cause(SwitchInspectionTests.arp(operation, "10.9.9.9", tags: [4])) == nil)
            #expect(cause(SwitchInspectionTests.arp(operation, "192.0.2.2")) == spoofed)
            #expect(cause(SwitchInspectionTests.arp(operation, "192.0.2.2", tags: [4])) == spoofed)
            #expect(cause(SwitchInspectionTests.arp(operation, "192.0.2.1", sender: 2)) == spoofed)
        }
        #expect(
            cause(SwitchInspectionTests.arp(1, "0.0.0.0")) == nil
                && cause(SwitchInspectionTests.arp(2, "0.0.0.0")) == spoofed)
        #expect(cause(SwitchInspectionTests.arp(3, "0.0.0.0", type: [0x80, 0x35])) == nil)
        #expect(cause(SwitchInspectionTests.arp(3, "0.0.0.0", sender: 2, type: [0x80, 0x35])) == spoofed)
        // Of another hardware or cut off: none that could be looked at.
        var odd = SwitchInspectionTests.arp(1, "192.0.2.1")
        odd[15] = 6
        #expect(cause(odd) == spoofed && cause(Array(SwitchInspectionTests.arp(1, "192.0.2.1").dropLast())) == spoofed)
        // In a second and a third tag, and in an 802.3 frame.
        #expect(cause(SwitchInspectionTests.arp(1, "192.0.2.2", tags: [4, 5])) == spoofed)
        #expect(cause(SwitchInspectionTests.arp(1, "192.0.2.2", tags: [4, 5, 6])) == "malformed")
        #expect(cause(B.frame(from: 1, type: [0, 46], [0xaa, 0xaa, 3, 0, 0, 0, 8, 6] + odd[14...])) == "malformed")
        #expect(cause(B.frame(from: 1, type: [0, 46], [0x42, 0x42, 3] + odd[14...])) == nil)
        // Other packets, and other ports, are not looked at.
        #expect(cause(B.frame(from: 1, type: [8, 0], SwitchInspectionTests.ipv4("198.51.100.1"))) == nil)
        #expect(b.send(SwitchInspectionTests.arp(1, "192.0.2.2"), from: 1) == ["address of another port"])
    }

    private static func ipv4(_ source: String, udp: [UInt8] = [0, 68, 0, 67]) -> [UInt8] {
        [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0] + ip(source) + ip("192.0.2.9") + udp + [0, 8, 0, 0]
    }

    private static func ipv6(_ source: String, next: UInt8 = 58, _ payload: [UInt8]) -> [UInt8] {
        B.frame(
            from: 1, type: [0x86, 0xdd],
            [0x60, 0, 0, 0, 0, UInt8(payload.count), next, 255] + ip(source) + ip("ff02::1") + payload)
    }

    private static func neighbour(_ type: UInt8, _ target: String, option: UInt8? = nil, _ mac: UInt8 = 1) -> [UInt8] {
        [type, 0, 0, 0, 0, 0, 0, 0] + ip(target) + (option.map { [$0, 1] + Frame.mac(mac) } ?? [])
    }

    @Test("neighbour discovery: what is claimed is the port's", arguments: [[], [12], [20, 33, 3]])
    func discovery(_ pieces: [Int]) throws {
        let b = try SwitchInspectionTests.bench { _ in }
        let spoofed = "spoofed ARP or ND"
        func cause(_ source: String, _ message: [UInt8], next: UInt8 = 58) -> String? {
            b.harness.process([SwitchInspectionTests.ipv6(source, next: next, message)], from: 0, pieces: pieces)[0]
                .cause
        }
        let (own, local, other) = ("2001:db8::1", "fe80::ff:fe00:1", "2001:db8::2")
        let n = SwitchInspectionTests.neighbour
        for source in [own, local] {
            #expect(cause(source, n(135, other, 1, 1)) == nil && cause(source, n(135, other, nil, 1)) == nil)
            #expect(cause(source, n(136, source, 2, 1)) == nil)
            #expect(cause(source, n(135, other, 1, 2)) == spoofed && cause(source, n(136, source, 2, 2)) == spoofed)
            #expect(cause(source, n(136, other, 2, 1)) == spoofed)
            #expect(cause(source, [133, 0, 0, 0, 0, 0, 0, 0]) == nil)
            #expect(cause(source, [133, 0, 0, 0, 0, 0, 0, 0, 1, 1] + Frame.mac(2)) == spoofed)
        }
        #expect(
            cause(other, n(135, own, nil, 1)) == spoofed && cause("fe80::ff:fe00:2", n(136, own, nil, 1)) == spoofed)
        // Is the address free?
        #expect(cause("::", n(135, own, nil, 1)) == nil && cause("::", n(135, other, nil, 1)) == spoofed)
        // A second option that says something else, one of no length, one that is cut off.
        #expect(cause(own, n(136, own, 2, 1) + [2, 1] + Frame.mac(2)) == spoofed)
        #expect(cause(own, n(136, own, 14, 5) + [2, 1] + Frame.mac(1)) == nil)
        #expect(cause(own, n(136, own, 14, 5) + [2, 0] + Frame.mac(1)) == spoofed)
        #expect(cause(own, n(136, own, 14, 5) + [2, 2] + Frame.mac(1)) == spoofed)
        #expect(cause(own, Array(n(136, own, nil, 1).dropLast())) == spoofed)
        // Routers' messages; behind an extension header; in fragments; behind headers without end.
        #expect(cause(own, [134, 0, 0, 0] + [UInt8](repeating: 0, count: 12)) == spoofed)
        #expect(cause(own, [137, 0, 0, 0] + [UInt8](repeating: 0, count: 36)) == spoofed)
        #expect(cause(own, [58, 0, 0, 0, 0, 0, 0, 0] + n(136, other, nil, 1), next: 60) == spoofed)
        #expect(cause(own, [58, 0, 0, 0, 0, 0, 0, 0] + n(136, own, nil, 1), next: 60) == nil)
        #expect(cause(own, [58, 0, 0, 1, 0, 0, 0, 0] + n(136, own, nil, 1), next: 44) == spoofed)
        let headers = (0..<12).flatMap { _ in [60, 0, 0, 0, 0, 0, 0, 0] as [UInt8] }
        #expect(cause(own, headers, next: 60) == "malformed")
        // An echo of anybody's passes: its source is `ip_guard`'s business.
        #expect(cause(other, [128, 0, 0, 0, 0, 0, 0, 0]) == nil)
        #expect(cause(other, [0, 68, 0, 67, 0, 8, 0, 0], next: 17) == nil)
    }

    @Test("neighbour discovery of a longer front: options up to its end")
    func long() throws {
        let b = try SwitchInspectionTests.bench { _ in }
        func cause(_ nonces: Int, _ mac: UInt8) -> String? {
            let options = (0..<nonces).flatMap { _ in [14, 1, 0, 0, 0, 0, 0, 0] as [UInt8] } + [2, 1] + Frame.mac(mac)
            let frame = SwitchInspectionTests.ipv6(
                "2001:db8::1", SwitchInspectionTests.neighbour(136, "2001:db8::1") + options)
            return b.harness.process([frame], from: 0, pieces: [50])[0].cause
        }
        #expect(cause(10, 1) == nil && cause(10, 2) == "spoofed ARP or ND")
        #expect(cause(22, 1) == "spoofed ARP or ND", "more than can be looked at")
    }

    @Test("IP sources are the port's; who has none asks for one")
    func sources() throws {
        let b = try SwitchInspectionTests.bench { ($0.checksIP, $0.inspects) = (true, false) }
        func cause(_ frame: [UInt8]) -> String? { b.harness.process([frame], from: 0)[0].cause }
        func v4(_ source: String, udp: [UInt8] = [0, 68, 0, 67], tags: [UInt16] = []) -> String? {
            cause(B.frame(from: 1, tags: tags, type: [8, 0], SwitchInspectionTests.ipv4(source, udp: udp)))
        }
        #expect(v4("192.0.2.1") == nil && v4("10.2.3.4", tags: [4]) == nil)
        #expect(v4("192.0.2.2") == "spoofed IP source" && v4("192.0.2.2", tags: [4, 9]) == "spoofed IP source")
        #expect(v4("0.0.0.0") == nil && v4("0.0.0.0", udp: [0, 68, 0, 68]) == "spoofed IP source")
        #expect(cause(SwitchInspectionTests.ipv6("2001:db8::1", next: 59, [])) == nil)
        #expect(cause(SwitchInspectionTests.ipv6("fe80::ff:fe00:1", next: 59, [])) == nil)
        #expect(cause(SwitchInspectionTests.ipv6("2001:db8::2", next: 59, [])) == "spoofed IP source")
        #expect(cause(SwitchInspectionTests.ipv6("::", next: 59, [])) == "spoofed IP source")
        #expect(cause(SwitchInspectionTests.ipv6("::", SwitchInspectionTests.neighbour(135, "2001:db8::7"))) == nil)
        #expect(cause(SwitchInspectionTests.arp(2, "192.0.2.77")) == nil)
        #expect(cause(Array(B.frame(from: 1, type: [8, 0])[..<30])) == "malformed")
    }
}

@Suite struct SwitchRateTests {
    private static let second = TickClock.shared.ticksPerMicrosecond * 1_000_000

    private static func limit(_ packets: UInt64?, burst: UInt64? = nil, bytes: UInt64? = nil, byteBurst: UInt64? = nil)
        -> RateLimit
    {
        var limit = RateLimit(packets: packets, bytes: bytes)
        (limit.packetBurst, limit.byteBurst) = (burst, byteBurst)
        return limit
    }

    /// How many of `n` frames pass.
    private static func passed(
        _ b: SwitchBench, _ n: Int, to: UInt8 = 0xff, length: Int = 60, from port: Int = 0, tags: [UInt16] = []
    ) -> Int {
        let frame = B.frame(
            to: to, from: UInt8(50 + port), tags: tags, [UInt8](repeating: 0, count: length - 14 - 4 * tags.count))
        let out = b.harness.process(Array(repeating: frame, count: n), from: port)
        return out.filter { !$0.isMade && $0.cause == nil && !$0.ports.isEmpty }.count
    }

    @Test("packets a second from a port: a burst, then the rate")
    func packets() throws {
        let b = try B([B.port { $0.limitIn = SwitchRateTests.limit(1000, burst: 20) }, B.port()])
        b.harness.ticks = 7 * SwitchRateTests.second
        #expect(SwitchRateTests.passed(b, 100) == 20)
        #expect(b.send(B.frame(from: 1), from: 0) == ["rate"] && SwitchRateTests.passed(b, 100, from: 1) == 100)
        for _ in 0..<100 {
            b.harness.ticks += SwitchRateTests.second / 100
            let n = SwitchRateTests.passed(b, 100)
            #expect((9...10).contains(n))
        }
        b.harness.ticks += 100 * SwitchRateTests.second
        #expect(SwitchRateTests.passed(b, 100) == 20)
    }

    @Test("bytes a second, with packets or alone; a packet that one of the limits refuses takes nothing of the other")
    func bytes() throws {
        let burst: UInt64 = 131_072
        let b = try B([
            B.port { $0.limitIn = SwitchRateTests.limit(nil, bytes: 1_000_000, byteBurst: burst) },
            B.port { $0.limitIn = SwitchRateTests.limit(1000, burst: 1000, bytes: 1_000_000, byteBurst: burst) },
        ])
        b.harness.ticks = SwitchRateTests.second
        let most = Int(burst) / 1500
        for port in 0...1 {
            let n = SwitchRateTests.passed(b, 200, length: 1500, from: port)
            #expect((most * 9 / 10...most).contains(n), "port \(port): \(n)")
        }
        let small = SwitchRateTests.passed(b, 1000, length: 60, from: 1)
        #expect(small <= 200, "\(small): what is left of the bytes")
        b.harness.ticks += SwitchRateTests.second
        let full = SwitchRateTests.passed(b, 2000, length: 60, from: 1)
        #expect((900...1000).contains(full), "\(full): bytes refused, so packets are there")
        b.harness.ticks += SwitchRateTests.second
        #expect(SwitchRateTests.passed(b, 1, length: 65_536, from: 0) == 1)
    }

    @Test("each kind of what is flooded has its own limit, and all of them one together")
    func kinds() throws {
        let kinds: [(WritableKeyPath<SwitchPort, RateLimit?>, [UInt8])] = [
            (\.limitBroadcast, Frame.broadcast), (\.limitMulticast, [3, 0, 0, 0, 0, 1]),
            (\.limitUnknown, Frame.mac(99)),
        ]
        for (limited, own) in kinds {
            let b = try B([
                B.port {
                    $0[keyPath: limited] = SwitchRateTests.limit(100, burst: 16)
                    $0.limitFlooding = SwitchRateTests.limit(100, burst: 48)
                }, B.port(),
            ])
            func send(_ to: [UInt8]) -> [String] { b.send(to + B.frame(from: 50)[6...], from: 0) }
            for _ in 0..<16 { #expect(send(own) == ["1"]) }
            #expect(send(own) == ["storm"])
            for (_, other) in kinds where other != own { for _ in 0..<8 { #expect(send(other) == ["1"]) } }
            // 32 of 48; of its own kind no more.
            #expect(send(own) == ["storm"])
            for _ in 0..<16 { #expect(send(kinds.first { $0.1 != own }!.1) == ["1"]) }
            for (_, any) in kinds { #expect(send(any) == ["storm"]) }
        }
    }

    @Test("storms: what is flooded is limited, what goes to one port is not")
    func storm() throws {
        let b = try B([B.port { $0.limitFlooding = SwitchRateTests.limit(100, burst: 16) }, B.port(), B.port()])
        b.harness.ticks = SwitchRateTests.second
        _ = b.send(B.frame(from: 1), from: 1)
        #expect(SwitchRateTests.passed(b, 10) == 10 && SwitchRateTests.passed(b, 10, to: 99) == 6)
        #expect(b.send([3, 0, 0, 0, 0, 1] + B.frame(from: 50)[6...], from: 0) == ["storm"])
        #expect(SwitchRateTests.passed(b, 500, to: 1) == 500 && SwitchRateTests.passed(b, 100, from: 1) == 100)
        b.harness.ticks += SwitchRateTests.second / 10
        #expect((9...10).contains(SwitchRateTests.passed(b, 100)))
    }

    @Test("to a port: of what is flooded others get all")
    func out() throws {
        let b = try B([B.port(), B.access(5) { $0.limitOut = SwitchRateTests.limit(100, burst: 16) }, B.port()])
        b.harness.ticks = SwitchRateTests.second
        _ = b.harness.process([B.frame(from: 1)], from: 1)
        #expect(SwitchRateTests.passed(b, 10, to: 1, tags: [5]) == 10)
        let out = b.harness.process(Array(repeating: B.frame(from: 50, tags: [5]), count: 10), from: 0)
        #expect(
            out.filter { $0.ports == [2] }.count == 10
                && out.filter { $0.ports == [1] && B.tag($0.frame) == nil }.count == 6)
        #expect(b.send(B.frame(to: 1, from: 50, tags: [5]), from: 0) == ["rate"])
    }

    @Test("threads together keep the rate, whatever parts of it each has taken", arguments: [1, 2, 3, 16])
    func shared(threads: Int) throws {
        let (rate, burst): (UInt64, UInt64) = (1_000_000, 4096)
        let port = B.port { $0.limitIn = SwitchRateTests.limit(rate, burst: burst) }
        let first = try B([port, B.port()], threads: threads)
        let all = [first.harness] + (1..<threads).map { _ in FunctionHarness(GuardedSwitch(first.core), ports: 2) }
        var random = SystemRandomNumberGenerator()
        var (now, passed) = (SwitchRateTests.second, 0)
        let frames = Array(repeating: B.frame(from: 1), count: 64)
        for _ in 0..<rounds(4000) {
            now += UInt64.random(in: 0..<SwitchRateTests.second / 20_000, using: &random)
            let harness = all[Int.random(in: 0..<threads, using: &random)]
            harness.ticks = now
            passed += harness.process(frames, from: 0).filter { $0.cause == nil }.count
        }
        let most = Double(burst) + Double(now - SwitchRateTests.second) * Double(rate) / Double(SwitchRateTests.second)
        #expect(Double(passed) <= most, "\(passed) of \(most)")
        #expect(Double(passed) > (most - Double(burst)) * 0.95, "\(passed) of \(most)")
    }
}

@Suite struct SwitchMirrorTests {
    @Test("what a port sends and is sent, once each, as it is on that port")
    func both() throws {
        let b = try B([
            B.access(10) { ($0.mirrorIn, $0.mirrorOut) = ("3", "3") }, B.port(.trunk([10, 20], native: nil)),
            B.access(10), B.port(),
        ])
        #expect(b.send(B.frame(from: 1), from: 0) == ["1:10", "2", "3"])
        #expect(b.send(B.frame(from: 2, tags: [10]), from: 1) == ["0", "2", "3"])
        #expect(b.send(B.frame(to: 2, from: 1), from: 0) == ["1:10", "3"])
        #expect(b.send(B.frame(to: 1, from: 2, tags: [10]), from: 1) == ["0", "3"])
        #expect(b.send(B.frame(to: 1, from: 9), from: 2) == ["0", "3"])
        #expect(b.send(B.frame(to: 9, from: 2, tags: [10]), from: 1) == ["2"])
        #expect(b.send(B.frame(from: 2, tags: [20]), from: 1) == ["no port"])
        #expect(b.send(B.frame(from: 4), from: 3) == ["mirror port"])
        // Dropped packets are seen, too.
        #expect(b.send(B.frame(from: 1, tags: [4]), from: 0) == ["3:4", "wrong VLAN"])
        #expect(b.send(B.frame(to: 9, from: 9), from: 0) == ["3", "same port"])
    }

    @Test("directions, several watchers, and their rates")
    func directions() throws {
        let b = try B([
            B.port(.trunk(nil, native: nil)) { $0.mirrorIn = "3" }, B.access(10) { $0.mirrorOut = "4" },
            B.access(10) { ($0.mirrorIn, $0.mirrorOut) = ("4", "3") }, B.port { $0.limitOut = RateLimit(packets: 10) },
            B.port(),
        ])
        b.harness.ticks = 1 << 40
        #expect(b.send(B.frame(from: 1, tags: [10]), from: 0) == ["1", "2", "3", "3:10", "4"])
        #expect(b.send(B.frame(from: 2), from: 1) == ["0:10", "2", "3"])
        #expect(b.send(B.frame(from: 3), from: 2) == ["0:10", "1", "4"])
        let frames = Array(repeating: B.frame(to: 9, from: 1, tags: [10]), count: 40)
        let out = b.harness.process(frames, from: 0)
        #expect(out.filter { $0.ports.contains(3) }.count < 40 && out.filter { $0.ports.contains(1) }.count == 40)
    }
}

@Suite struct SwitchCheckTests {
    @Test("options that cannot be, or contradict each other, are refused with one line that names them")
    func refused() throws {
        func error(_ ports: [SwitchPort]) -> String {
            do throws(EngineError) { try SwitchMember.check(SwitchBench.members(ports)) } catch { return "\(error)" }
            return ""
        }
        func one(_ change: (inout SwitchPort) -> Void) -> String { error([B.port(.all, change), B.port()]) }
        #expect(one { _ in } == "")
        #expect(one { $0.vlans = .access(0) }.contains("access=0: VLANs are 1 to 4094"))
        #expect(one { $0.vlans = .trunk([4095], native: nil) }.contains("trunk=4095"))
        #expect(one { $0.vlans = .trunk(nil, native: 4095) }.contains("native=4095"))
        let mac = MACAddress(2, 0, 0, 0, 0, 1)
        #expect(one { $0.addresses = [MACAddress(1, 0, 0, 0, 0, 1)] }.contains("unicast"))
        #expect(one { $0.addresses = [mac, mac] }.contains("given twice"))
        #expect(error([B.port { $0.addresses = [mac] }, B.port { $0.addresses = [mac] }]).contains("0 has it, too"))
        #expect(one { $0.addresses = (0..<65).map { MACAddress(2, 0, 0, 0, 1, $0) } }.contains("64 at most"))
        #expect(one { $0.addressLimit = 0 }.contains("max_macs=0: 1 to 4096"))
        #expect(one { $0.inspects = true }.contains("add ips=") && one { $0.checksIP = true }.contains("ip_guard=on"))
        #expect(one { $0.ipv4 = [.all] }.contains("add inspect=on, ip_guard=on"))
        #expect(one { $0.limitIn = RateLimit() }.contains("rate_in=: a limit of nothing"))
        #expect(one { $0.limitOut = RateLimit(packets: 0) }.contains("rate_out=: 0 a second"))
        #expect(one { $0.limitFlooding = RateLimit(bytes: .max) }.contains("storm="))
        var short = RateLimit(bytes: 1)
        short.byteBurst = 1000
        #expect(one { $0.limitIn = short }.contains("a burst of 1000"))
        #expect(one { $0.mirrorIn = "7" }.contains("no port is called so; 1 are"))
        #expect(one { $0.mirrorOut = "0" }.contains("to itself"))
        #expect(error([B.port { $0.mirrorIn = "1" }, B.access(3)]).contains("rate_out= alone"))
        #expect(error([B.port { $0.mirrorIn = "1" }, B.port { $0.limitOut = RateLimit(packets: 5) }]) == "")
        #expect(error(Array(repeating: B.port { $0.isIsolated = true }, count: 257)).contains("256 at most"))
        let nameless = SwitchMember("x", B.port { $0.checksSource = true })
        #expect { try SwitchMember.check([nameless]) } throws: { "\($0)".contains("add static=ADDRESS or mac=ADDRESS") }
    }

    @Test("any rate and burst that is allowed makes a meter", arguments: [1, 7, 1000, 1_000_000_000_000])
    func extremes(rate: UInt64) throws {
        for burst: UInt64 in [131_072, 1 << 40] {
            var limit = RateLimit(packets: rate, bytes: rate)
            (limit.packetBurst, limit.byteBurst) = (burst, burst)
            for threads in [1, 64] {
                let b = try B([B.port { $0.limitIn = limit }, B.port()], threads: threads)
                for ticks: UInt64 in [1, 1 << 40, 1 << 60] {
                    b.harness.ticks = ticks
                    #expect(b.send(B.frame(from: 1), from: 0) == ["1"])
                }
            }
        }
    }
}
