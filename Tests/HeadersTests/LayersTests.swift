import Headers
import Testing

/// What `Layers` says of a frame, as text that a failure shows: etherType, tags, network, protocol, transport, payload,
/// end, then words for flags and the defect.
func describe(_ layers: Layers) -> String {
    func number(_ value: Int?) -> String { value.map { String($0) } ?? "-" }
    var text = "\(layers.etherType)"
    if let tag = layers.outerTag { text += " tag \(String(tag, radix: 16))" }
    if let tag = layers.innerTag { text += " tag \(String(tag, radix: 16))" }
    text += " \(number(layers.networkOffset))"
    if layers.isIPv4 { text += " v4" }
    if layers.isIPv6 { text += " v6" }
    text += " \(layers.ipProtocol.map { $0.description } ?? "-")"
    text += " \(number(layers.transportOffset)) \(number(layers.payloadOffset)) end \(number(layers.packetEnd))"
    if layers.isFragment { text += layers.isLaterFragment ? " later" : " first" }
    if let defect = layers.defect { text += " \(defect)" }
    return text
}

private func layers(_ frame: Frame, frameLength: Int? = nil) -> Layers {
    frame.look { Layers($0, frameLength: frameLength ?? $0.count) }
}

@Suite struct LayersTests {
    /// Read from the frames' digits.
    static let known = [
        "tcp": "0x0800 14 v4 6 34 62 end 62", "udp": "0x0800 14 v4 17 34 42 end 50",
        "taggedEcho": "0x0800 tag b064 tag c8 22 v4 1 50 58 end 62", "arp": "0x0806 tag 200a 18 - - - end -",
        "tcp6": "0x86dd 14 v6 6 54 74 end 78", "chained": "0x86dd 14 v6 17 110 118 end 126",
        "firstFragment6": "0x86dd 14 v6 17 62 70 end 78 first", "laterFragment6": "0x86dd 14 v6 17 - - end 78 later",
        "laterFragment": "0x0800 14 v4 6 - - end 42 later", "vxlan": "0x0800 14 v4 17 34 42 end 92",
        "geneve": "0x86dd 14 v6 17 54 62 end 78",
    ]

    @Test("the layers of known frames", arguments: Frames.all.keys.sorted())
    func frames(name: String) throws {
        let frame = Frame(try #require(Frames.all[name]))
        #expect(describe(layers(frame)) == LayersTests.known[name])
        // A longer frame, of which these are the first bytes: nothing else.
        #expect(describe(layers(frame, frameLength: 1518)) == LayersTests.known[name])
    }

    @Test(
        "a known frame cut at each length has a defect until all of its packet is there",
        arguments: Frames.all.keys.sorted())
    func truncated(name: String) throws {
        let all = hex(try #require(Frames.all[name]))
        let whole = layers(Frame(all))
        // Behind the packet's end there is padding. ARP is not looked into.
        let end = whole.packetEnd ?? 18
        for size in 0...all.count {
            let cut = layers(Frame(all.prefix(size)))
            if size < end {
                let defect = try #require(cut.defect, "\(size)")
                #expect(defect != .frontTooShort)
                if let at = cut.networkOffset {
                    // The header says more than there is.
                    let isWhole = cut.isIPv4 || cut.isIPv6
                    let lie: [Layers.Defect] = [.totalLength, .payloadLength]
                    #expect(isWhole ? lie.contains(defect) : defect == .networkTruncated && size < at + 40)
                } else {
                    #expect(defect == .ethernetTruncated)
                }
                if let at = cut.transportOffset { #expect(at == whole.transportOffset && at < size) }
                if let at = cut.payloadOffset { #expect(at == whole.payloadOffset && at <= size) }
            } else {
                #expect(describe(cut) == describe(whole))
            }
        }
    }

    @Test(
        "a front that ends early says so and nothing else is wrong; one that holds the headers suffices",
        arguments: Frames.all.keys.sorted())
    func shortFront(name: String) throws {
        let all = hex(try #require(Frames.all[name]))
        let whole = layers(Frame(all))
        let isLater = whole.isLaterFragment
        let needed = whole.payloadOffset ?? (isLater ? (whole.isIPv4 ? 34 : 62) : whole.networkOffset!)
        for size in 0...all.count {
            let part = layers(Frame(all.prefix(size)), frameLength: all.count)
            if size < needed {
                #expect(part.defect == .frontTooShort, "\(size)")
            } else {
                #expect(describe(part) == describe(whole), "\(size)")
            }
        }
    }

    /// The frame with some bytes replaced.
    private func changed(_ text: String, _ at: Int, _ bytes: String, cut: Int? = nil) -> String {
        var all = hex(text)
        all.replaceSubrange(at..<at + hex(bytes).count, with: hex(bytes))
        return describe(layers(Frame(all.prefix(cut ?? all.count))))
    }

    @Test("lengths that lie, and headers that are none")
    func defects() {
        // IPv4: version 5, header of 16 bytes, header longer than the packet, total length below 20, beyond the frame.
        #expect(changed(Frames.tcp, 14, "55") == "0x0800 14 - - - end - version")
        #expect(changed(Frames.tcp, 14, "44") == "0x0800 14 - - - end - headerLength")
        #expect(changed(Frames.udp, 14, "4a00 0024") == "0x0800 14 v4 17 - - end - headerLength")
        #expect(changed(Frames.udp, 14, "4b00 0024", cut: 50) == "0x0800 14 - - - end - networkTruncated")
        #expect(changed(Frames.tcp, 16, "0013") == "0x0800 14 v4 6 34 62 end 68 totalLength")
        #expect(changed(Frames.tcp, 16, "0037") == "0x0800 14 v4 6 34 62 end 68 totalLength")
        #expect(changed(Frames.tcp, 16, "0036") == "0x0800 14 v4 6 34 62 end 68")
        #expect(changed(Frames.tcp, 16, "0000") == "0x0800 14 v4 6 34 62 end 68 totalLength")
        #expect(changed(Frames.tcp, 16, "ffff") == "0x0800 14 v4 6 34 62 end 68 totalLength")
        // The packet ends in its TCP header; in TCP's options.
        #expect(changed(Frames.tcp, 16, "0027") == "0x0800 14 v4 6 - - end 53 transportTruncated")
        #expect(changed(Frames.tcp, 16, "002f") == "0x0800 14 v4 6 34 - end 61 dataOffset")
        #expect(changed(Frames.tcp, 46, "40") == "0x0800 14 v4 6 34 - end 62 dataOffset")
        #expect(changed(Frames.tcp, 46, "80") == "0x0800 14 v4 6 34 - end 62 dataOffset")
        // No transport header at all.
        #expect(changed(Frames.tcp, 16, "0014") == "0x0800 14 v4 6 - - end 34 transportTruncated")
        // UDP: shorter than its header; beyond the packet, though the frame has so many bytes; less than the packet.
        #expect(changed(Frames.udp, 38, "0007") == "0x0800 14 v4 17 34 - end 50 udpLength")
        #expect(changed(Frames.udp, 38, "0011") == "0x0800 14 v4 17 34 - end 50 udpLength")
        #expect(changed(Frames.udp, 38, "0000") == "0x0800 14 v4 17 34 - end 50 udpLength")
        #expect(changed(Frames.udp, 38, "000f") == "0x0800 14 v4 17 34 42 end 50")
        // A protocol of which we know no header, and nothing behind the IP header.
        #expect(changed(Frames.udp, 23, "2f") == "0x0800 14 v4 47 34 - end 50")
        #expect(changed(Frames.udp, 14, "4500 0014 0001 0000 402f") == "0x0800 14 v4 47 - - end 34")
        // IPv6: version, payload beyond the frame, in the transport header, nothing at all.
        #expect(changed(Frames.tcp6, 14, "4a") == "0x86dd 14 - - - end - version")
        #expect(changed(Frames.tcp6, 18, "0019") == "0x86dd 14 v6 6 54 74 end 78 payloadLength")
        #expect(changed(Frames.tcp6, 18, "0013") == "0x86dd 14 v6 6 - - end 73 transportTruncated")
        #expect(changed(Frames.tcp6, 18, "0000") == "0x86dd 14 v6 6 - - end 54 transportTruncated")
        #expect(changed(Frames.tcp6, 18, "0000 3b") == "0x86dd 14 v6 59 - - end 54")
        #expect(changed(Frames.tcp6, 20, "3b") == "0x86dd 14 v6 59 - - end 78")
        // Extension headers: one beyond the packet, AH and routing too; a chain without end.
        #expect(changed(Frames.chained, 55, "08") == "0x86dd 14 v6 - - - end 126 extensionHeaders")
        #expect(changed(Frames.chained, 63, "07") == "0x86dd 14 v6 - - - end 126 extensionHeaders")
        #expect(changed(Frames.chained, 71, "ff") == "0x86dd 14 v6 - - - end 126 extensionHeaders")
        #expect(changed(Frames.chained, 87, "0a") == "0x86dd 14 v6 - - - end 126 extensionHeaders")
        #expect(changed(Frames.chained, 18, "0004") == "0x86dd 14 v6 - - - end 58 extensionHeaders")
        #expect(changed(Frames.firstFragment6, 18, "0007") == "0x86dd 14 v6 - - - end 61 extensionHeaders")
    }

    @Test("eight extension headers are walked, a ninth is a defect")
    func chain() {
        func frame(_ headers: Int) -> String {
            let next = (0..<headers).map { ($0 == headers - 1 ? "11" : "3c") + "00 010400000000" }.joined()
            let length = String(headers * 8 + 8, radix: 16)
            let size = String(repeating: "0", count: 4 - length.count) + length
            let front = "02005e100001 02005e100002 86dd 60000000" + size + (headers == 0 ? "11" : "3c") + "40"
            return front + z(32) + next + "0001 0002 0008 0000"
        }
        for n in 0...8 {
            let at = 54 + 8 * n
            #expect(describe(layers(Frame(frame(n)))) == "0x86dd 14 v6 17 \(at) \(at + 8) end \(at + 8)")
        }
        for n in 9...20 {
            #expect(describe(layers(Frame(frame(n)))) == "0x86dd 14 v6 - - - end \(62 + 8 * n) extensionHeaders")
        }
    }

    @Test("tags: one, two, three, with nothing behind them; IEEE 802.3 length")
    func tags() {
        let macs = "02005e100001 02005e100002"
        #expect(describe(layers(Frame(macs + "8100 0001 88cc"))) == "0x88cc tag 1 18 - - - end -")
        #expect(describe(layers(Frame(macs + "88a8 0001 88a8 0002 88cc"))) == "0x88cc tag 1 tag 2 22 - - - end -")
        let three = layers(Frame(macs + "8100 0001 8100 e002 8100 0003 0800"))
        #expect(describe(three) == "0x8100 tag 1 tag e002 22 - - - end -")
        #expect(three.vlanCount == 2 && three.vlanID == 1)
        #expect(describe(layers(Frame(macs + "8100 0001 88"))) == "0x0000 - - - - end - ethernetTruncated")
        #expect(describe(layers(Frame(macs + "8100 0001 8100 00"))) == "0x0000 tag 1 - - - - end - ethernetTruncated")
        #expect(describe(layers(Frame(macs + "0026 4242 03"))) == "0x0026 14 - - - end -")
        #expect(describe(layers(Frame(""))) == "0x0000 - - - - end - ethernetTruncated")
    }

    @Test("fragments: first, later, atomic; a first fragment's UDP length may be more than it holds")
    func fragments() {
        // IPv4, MF set: the UDP length may now lie beyond.
        #expect(changed(Frames.udp, 20, "2000") == "0x0800 14 v4 17 34 42 end 50 first")
        var all = hex(Frames.udp)
        all[20] = 0x20
        all[38] = 0x10
        #expect(describe(layers(Frame(all))) == "0x0800 14 v4 17 34 42 end 50 first")
        #expect(changed(Frames.udp, 20, "0001") == "0x0800 14 v4 17 - - end 50 later")
        #expect(changed(Frames.udp, 20, "8000") == "0x0800 14 v4 17 34 42 end 50")
        // IPv6: neither more nor an offset.
        #expect(changed(Frames.firstFragment6, 56, "0000 0badcafe 1234 5678 0010") == "0x86dd 14 v6 17 62 70 end 78")
        #expect(changed(Frames.firstFragment6, 56, "0006 0badcafe 1234 5678 0010") == "0x86dd 14 v6 17 62 70 end 78")
    }

    @Test("the short way for usual packets says what the long way says, which a tag makes them go")
    func shortcut() {
        var random = Random(seed: 5)
        let seeds = [Frames.tcp, Frames.udp, Frames.vxlan].map { hex($0) }
        for _ in 0..<rounds(200_000) {
            var bytes = seeds[random.below(3)]
            // Bytes of the headers, some of them; then cut or longer.
            for _ in 0..<random.below(4) { bytes[14 + random.below(40)] = UInt8(truncatingIfNeeded: random.next()) }
            if random.below(4) == 0 { bytes.removeLast(random.below(30)) }
            let more = random.below(3) == 0 ? random.below(100) : 0
            let usual = layers(Frame(bytes), frameLength: bytes.count + more)
            let tagged = layers(
                Frame(Array(bytes[..<12]) + [0x81, 0, 0, 0] + bytes[12...]), frameLength: bytes.count + more + 4)
            #expect(tagged.vlanCount == 1 && usual.vlanCount == 0)
            func shifted(_ at: Int?) -> Int? { at.map { $0 + 4 } }
            let isSame =
                usual.etherType == tagged.etherType && usual.defect == tagged.defect
                && usual.ipProtocol == tagged.ipProtocol && usual.isIPv4 == tagged.isIPv4
                && usual.isFragment == tagged.isFragment && usual.isLaterFragment == tagged.isLaterFragment
                && shifted(usual.networkOffset) == tagged.networkOffset
                && shifted(usual.transportOffset) == tagged.transportOffset
                && shifted(usual.payloadOffset) == tagged.payloadOffset
                && shifted(usual.packetEnd) == tagged.packetEnd
            #expect(isSame, "\(bytes): \(describe(usual)), tagged: \(describe(tagged))")
        }
    }

    @Test("random bytes: nothing traps, and each offset lies in the bytes")
    func randomBytes() {
        var random = Random(seed: 6)
        let seeds = Frames.all.values.sorted().map { hex($0) }
        for i in 0..<rounds(200_000) {
            var bytes = random.below(2) == 0 ? random.bytes(random.below(150)) : seeds[random.below(seeds.count)]
            if !bytes.isEmpty { for _ in 0..<random.below(8) { bytes[random.below(bytes.count)] = UInt8(i & 255) } }
            bytes.removeLast(min(bytes.count, random.below(3) == 0 ? random.below(60) : 0))
            let length = random.below(3) == 0 ? random.below(200) - 5 : bytes.count
            let found = layers(Frame(bytes), frameLength: length)
            for at in [found.networkOffset, found.transportOffset, found.payloadOffset] {
                if let at { #expect(at >= 14 && at <= bytes.count && at <= length) }
            }
            if let end = found.packetEnd { #expect(end <= length) }
            if found.defect == .frontTooShort { #expect(bytes.count < length) }
        }
    }

    @Test("more than 65,535 bytes, and lengths that no frame has")
    func large() {
        let all = hex(Frames.udp) + [UInt8](repeating: 0, count: 100_000)
        #expect(describe(layers(Frame(all))) == LayersTests.known["udp"])
        #expect(describe(layers(Frame(hex(Frames.udp)), frameLength: .max)) == LayersTests.known["udp"])
        #expect(layers(Frame(hex(Frames.udp)), frameLength: .min).defect == .ethernetTruncated)
        #expect(layers(Frame(hex(Frames.udp)), frameLength: 0).defect == .ethernetTruncated)
        #expect(MemoryLayout<Layers>.size <= 24)
    }
}
