import CPlatform
import Headers
import Virtio

/// `switch` where ports have options (`SwitchPort`): it learns by VLAN, and looks at what each port may do. The plain
/// switch is `SwitchFunction`, and pays for none of this.
///
/// A packet leaves a port with a tag or without one. Where some of its receivers take the one and some the other, it is
/// copied once.
package struct GuardedSwitch: PacketFunction {
    /// The addresses, a tag and the type behind it.
    package static var frontBytes: Int { 18 }
    /// Not where packets are counted against rates: see `Engine.startThread`.
    package static var judgesAgain: Bool { true }
    package static var dropCauses: [String] {
        [
            "malformed", "wrong VLAN", "inner VLAN tag", "rate", "storm", "spoofed source", "spoofed IP source",
            "spoofed ARP or ND", "too many addresses", "address of another port", "isolated", "same port", "no port",
            "mirror port", "no room for a copy",
        ]
    }

    package static var counters: [String] { ["addresses learned", "addresses moved"] }
    /// Their places.
    private enum Count {
        static var learned: Int { 0 }
        static var moved: Int { 1 }
    }

    private let core: SwitchCore
    /// This thread's parts of what rates allow.
    private let parts: MeterParts

    /// For one thread; `core` is all threads'.
    package init(_ core: SwitchCore) {
        self.core = core
        parts = MeterParts(core.meters)
    }

    /// A packet as it came in.
    private struct Arrival: BitwiseCopyable {
        var vlan: UInt16
        /// Of its tag, which may say a priority alone.
        var control: UInt16 = 0
        var hasTag = false
        /// Its tag says the VLAN.
        var isTagged = false
        /// What follows is one more tag.
        var hasInnerTag = false
    }

    /// What is known of a burst's packets so far: they are mostly of one flow.
    private struct Recent: BitwiseCopyable {
        /// The source that is known at this port.
        var source: UInt64 = 0
        /// The first 14 bytes of the last packet that went to a port for nothing but its addresses, type and tag: one
        /// that has the same goes there, too.
        var (start, middle): (UInt64, UInt64) = (0, 0)
        /// Its tag and the type behind it, and `hasTag`; 0 without a tag; `nothing`: there was no such packet.
        var tag = Recent.nothing
        var verdict = Verdict.drop
        /// What is done to its tag: `asItCame`, `popped`, or the control information of one that is pushed.
        var change = Recent.asItCame

        static var nothing: UInt64 { .max }
        static var hasTag: UInt64 { 1 &<< 32 }
        static var asItCame: Int { -1 }
        static var popped: Int { -2 }
    }

    @inline(__always)
    package mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        if packets.port < 0 || packets.port >= core.portCount { return .drop }
        var recent = Recent()
        var i = 0
        if core.rules[packets.port].looksAtEach {
            while i < packets.count {
                judge(packets, i, &recent, keepsLast: false)
                i &+= 1
            }
            return nil
        }
        while i < packets.count {
            let packet = packets.lookOnce(i, .wanted(GuardedSwitch.frontBytes))
            // Shorter ones are dropped in any case, and counted for their length.
            if packet.slot.pointee.frontLength >= Ethernet.size {
                let (start, middle, tag) = GuardedSwitch.words(packet.slot)
                if start == recent.start && middle == recent.middle && tag == recent.tag {
                    repeatLast(packets, i, recent)
                } else {
                    judge(packets, i, &recent, keepsLast: true)
                }
            }
            i &+= 1
        }
        return nil
    }

    /// Does to a packet what was done to one that begins with the same.
    @inline(__always)
    private func repeatLast(_ packets: borrowing PacketBurst, _ i: Int, _ recent: Recent) {
        packets.decide(i, recent.verdict)
        if recent.change == Recent.asItCame { return }
        let isDone =
            recent.change == Recent.popped
            ? packets[i].popVLAN() != nil : packets[i].pushVLAN(UInt16(truncatingIfNeeded: recent.change))
        if !isDone { packets.drop(i, because: Cause.malformed) }
    }

    /// The first 8 bytes, the 8 up to the type's end, and the four behind that where it says that there is a tag.
    @inline(__always)
    private static func words(_ slot: UnsafeMutablePointer<PacketSlot>) -> (UInt64, UInt64, UInt64) {
        let bytes = slot.pointee.frontBytes
        let middle = (bytes + 6).loadUnaligned(as: UInt64.self)
        // 0x8100 as it stands there. A frame that ends behind it is malformed, and never the last.
        let hasTag = middle &>> 48 == 0x81 && slot.pointee.frontLength >= frontBytes
        let tag = hasTag ? UInt64((bytes + 14).loadUnaligned(as: UInt32.self)) | Recent.hasTag : 0
        return (bytes.loadUnaligned(as: UInt64.self), middle, tag)
    }

    @inline(__always)
    private func judge(_ packets: borrowing PacketBurst, _ i: Int, _ recent: inout Recent, keepsLast: Bool) {
        let port = packets.port
        let packet = packets.lookOnce(i, .wanted(GuardedSwitch.frontBytes))
        guard let ethernet = Ethernet(packet.bytes) else { return }
        let (source, destination) = (packet.sourceMAC, packet.destinationMAC)
        var arrival = Arrival(vlan: core.rules[port].untagged)
        var cause = classify(packet, ethernet.etherType, port, &arrival)
        if cause < 0 { cause = check(packet, packets, source) }
        if cause >= 0 { return refuse(packets, i, arrival, cause) }

        let word = AddressTable.word(source, arrival.vlan)
        if word != recent.source {
            cause = learn(source, word, arrival.vlan, packets)
            if cause >= 0 { return refuse(packets, i, arrival, cause) }
            recent.source = word
        }
        let to = destination & 1 != 0 ? -1 : core.find(destination, arrival.vlan, seconds: packets.seconds)
        if to < 0 { return flood(packets, i, arrival) }
        send(packets, i, arrival, to, &recent, keepsLast)
    }

    // MARK: Coming in

    /// Which VLAN the packet is in; why it may not be, or -1.
    @inline(__always)
    private func classify(
        _ packet: borrowing Packet, _ type: EtherType, _ port: Int, _ arrival: inout Arrival
    ) -> Int {
        if core.rules[port].isMirror { return Cause.mirror }
        if type == .vlan {
            guard let tag = VLANTag(packet.bytes, at: Ethernet.size) else { return Cause.malformed }
            arrival.hasTag = true
            arrival.control = tag.controlInformation
            arrival.hasInnerTag = tag.etherType.isVLAN
            let vlan = tag.vlanID
            if vlan != 0 {
                // Of an access port's own VLAN, too: whoever sends there knows no VLANs.
                if !core.rules[port].takesTags || vlan == 0xfff || !core.isMember(port, vlan) { return Cause.vlan }
                (arrival.isTagged, arrival.vlan) = (true, vlan)
                return -1
            }
        } else {
            arrival.hasInnerTag = type.isVLAN
        }
        if arrival.vlan == PortRules.noVLAN { return Cause.vlan }
        // It would leave untagged as if it were of the VLAN of that tag: a way from one VLAN to another.
        return arrival.hasInnerTag && arrival.vlan != 0 ? Cause.innerTag : -1
    }

    /// What its port's options have against the packet, -1: nothing.
    @inline(__always)
    private func check(_ packet: borrowing Packet, _ packets: borrowing PacketBurst, _ source: UInt64) -> Int {
        let port = packets.port
        if core.rules[port].limitIn.isOn
            && !parts.admit(core.rules[port].limitIn, bytes: packet.length, now: packets.ticks)
        {
            return Cause.rate
        }
        if core.rules[port].checksSource && !core.isOwn(source, port) { return Cause.spoofedSource }
        if core.rules[port].inspects || core.rules[port].checksIP {
            return core.inspect(packet, port, source: source)
        }
        return -1
    }

    @inline(__always)
    private func learn(_ source: UInt64, _ word: UInt64, _ vlan: UInt16, _ packets: borrowing PacketBurst) -> Int {
        let port = packets.port
        if source & 1 != 0 {
            // A group address cannot be a source, and is none that a limit could count.
            return core.rules[port].terms.limit > 0 ? Cause.spoofedSource : -1
        }
        if core.addresses.hear(word, port: port, seconds: packets.seconds) { return -1 }
        switch core.learn(source, vlan, port: port, seconds: packets.seconds) {
        case .learned: packets.count(Count.learned)
        case .moved: packets.count(Count.moved)
        case .passed: break
        case .elsewhere: return Cause.elsewhere
        case .tooMany: return Cause.tooMany
        }
        return -1
    }

    /// Drops a packet. Who watches the port sees it nevertheless, as it came.
    @inline(never)
    private func refuse(_ packets: borrowing PacketBurst, _ i: Int, _ arrival: Arrival, _ cause: Int) {
        packets.drop(i, because: cause)
        let mirror = core.rules[packets.port].mirrorIn
        if mirror < 0 || !admitOut(packets, i, mirror) { return }
        if let copy = packets.copy(i) { copy.verdict = .port(mirror) }
    }

    // MARK: Going out

    /// Whether a port's rate lets the packet out.
    @inline(__always)
    private func admitOut(_ packets: borrowing PacketBurst, _ i: Int, _ port: Int) -> Bool {
        admit(core.rules[port].limitOut, packets, i)
    }

    @inline(__always)
    private func admit(_ limit: borrowing RateMeters, _ packets: borrowing PacketBurst, _ i: Int) -> Bool {
        if !limit.isOn { return true }
        return parts.admit(limit, bytes: packets[i].length, now: packets.ticks)
    }

    /// Whether the limits of what its port may have flooded let the packet through: its kind's, and that of all.
    @inline(__always)
    private func admitFlooded(_ packets: borrowing PacketBurst, _ i: Int) -> Bool {
        let port = packets.port
        let to = packets[i].destinationMAC
        if to & 1 == 0 {
            if !admit(core.floodLimits[port].unknown, packets, i) { return false }
        } else if to == 0xffff_ffff_ffff {
            if !admit(core.floodLimits[port].broadcast, packets, i) { return false }
        } else {
            if !admit(core.floodLimits[port].multicast, packets, i) { return false }
        }
        return admit(core.floodLimits[port].all, packets, i)
    }

    /// To a known address's port.
    @inline(__always)
    private func send(
        _ packets: borrowing PacketBurst, _ i: Int, _ arrival: Arrival, _ to: Int, _ recent: inout Recent,
        _ keepsLast: Bool
    ) {
        let port = packets.port
        if to == port { return refuse(packets, i, arrival, Cause.samePort) }
        let isTagged = core.members[Int(arrival.vlan)].tagged.contains(to)
        if !isTagged && !core.members[Int(arrival.vlan)].untagged.contains(to) { return flood(packets, i, arrival) }
        if core.rules[port].isIsolated && core.rules[to].isIsolated {
            return refuse(packets, i, arrival, Cause.isolated)
        }
        if core.rules[port].mirrorIn >= 0 || core.rules[to].mirrorOut >= 0 {
            return sendMirrored(packets, i, arrival, to, isTagged)
        }
        if !admitOut(packets, i, to) { return refuse(packets, i, arrival, Cause.rate) }
        let isKept = keepsLast && !core.rules[to].limitOut.isOn
        if isKept { (recent.start, recent.middle, recent.tag) = GuardedSwitch.words(packets[i].slot) }
        let cause = shape(packets[i], arrival, isTagged)
        if cause >= 0 {
            if keepsLast { recent.tag = Recent.nothing }
            return refuse(packets, i, arrival, cause)
        }
        packets.decide(i, .port(to))
        if !isKept { return }
        recent.verdict = .port(to)
        recent.change = change(arrival, isTagged)
        // Its tag was given another VLAN, which is done to nothing but priority tags.
        if recent.change >= 0 && arrival.hasTag { recent.tag = Recent.nothing }
    }

    /// As in `Recent`.
    @inline(__always)
    private func change(_ arrival: Arrival, _ isTagged: Bool) -> Int {
        if isAsItGoes(arrival, isTagged) { return Recent.asItCame }
        return isTagged ? Int(arrival.control & 0xf000 | arrival.vlan) : Recent.popped
    }

    /// The packet came in the form in which it leaves. A frame without a VLAN stays as it is.
    @inline(__always)
    private func isAsItGoes(_ arrival: Arrival, _ isTagged: Bool) -> Bool {
        isTagged ? arrival.isTagged : !arrival.hasTag || arrival.vlan == 0
    }

    @inline(never)
    private func sendMirrored(
        _ packets: borrowing PacketBurst, _ i: Int, _ arrival: Arrival, _ to: Int, _ isTagged: Bool
    ) {
        if !isTagged && isHidden(arrival) { return refuse(packets, i, arrival, Cause.innerTag) }
        if !admitOut(packets, i, to) { return refuse(packets, i, arrival, Cause.rate) }
        var receivers = VLANMembers()
        if isTagged { receivers.tagged.insert(to) } else { receivers.untagged.insert(to) }
        deliver(packets, i, arrival, receivers, Cause.noPort)
    }

    /// To all ports of the VLAN.
    @inline(never)
    private func flood(_ packets: borrowing PacketBurst, _ i: Int, _ arrival: Arrival) {
        let port = packets.port
        if core.rules[port].limitsFlooding && !admitFlooded(packets, i) {
            return refuse(packets, i, arrival, Cause.storm)
        }
        var receivers = core.members[Int(arrival.vlan)]
        if core.rules[port].isIsolated {
            receivers.tagged.subtract(core.isolated)
            receivers.untagged.subtract(core.isolated)
        }
        receivers.tagged.remove(port)
        receivers.untagged.remove(port)
        var cause = Cause.noPort
        if isHidden(arrival) && !receivers.untagged.isEmpty {
            receivers.untagged = PortSet()
            cause = Cause.innerTag
        }
        var limited = receivers.tagged
        limited.formUnion(receivers.untagged)
        limited = limited.intersection(core.limited)
        while let to = limited.popFirst() {
            if admitOut(packets, i, to) { continue }
            receivers.tagged.remove(to)
            receivers.untagged.remove(to)
            cause = Cause.rate
        }
        deliver(packets, i, arrival, receivers, cause)
    }

    /// Without its tag the packet would be one of the VLAN of its inner tag.
    @inline(__always)
    private func isHidden(_ arrival: Arrival) -> Bool {
        arrival.hasInnerTag && arrival.isTagged
    }

    /// To these, and to those that watch them or the packet's port. `cause`: why there are none.
    private func deliver(
        _ packets: borrowing PacketBurst, _ i: Int, _ arrival: Arrival, _ to: VLANMembers, _ cause: Int
    ) {
        var receivers = to
        if receivers.tagged.isEmpty && receivers.untagged.isEmpty { return refuse(packets, i, arrival, cause) }
        watch(packets, i, arrival, &receivers)
        if receivers.tagged.isEmpty || receivers.untagged.isEmpty {
            let isTagged = receivers.untagged.isEmpty
            let cause = shape(packets[i], arrival, isTagged)
            if cause >= 0 { return refuse(packets, i, arrival, cause) }
            return packets.decide(i, verdict(packets, isTagged ? receivers.tagged : receivers.untagged))
        }
        guard let copy = packets.copy(i) else { return packets.drop(i, because: Cause.notCopied) }
        // The packet itself goes in the form that it came in.
        let isTagged = arrival.isTagged
        if shape(copy, arrival, !isTagged) >= 0 || shape(packets[i], arrival, isTagged) >= 0 {
            return packets.drop(i, because: Cause.malformed)
        }
        copy.verdict = verdict(packets, isTagged ? receivers.untagged : receivers.tagged)
        packets.decide(i, verdict(packets, isTagged ? receivers.tagged : receivers.untagged))
    }

    /// Adds the ports that get copies, in the form in which the packet was, or is, on the port that they watch.
    private func watch(
        _ packets: borrowing PacketBurst, _ i: Int, _ arrival: Arrival, _ receivers: inout VLANMembers
    ) {
        var watchers = VLANMembers()
        let mirror = core.rules[packets.port].mirrorIn
        if mirror >= 0 {
            if arrival.isTagged { watchers.tagged.insert(mirror) } else { watchers.untagged.insert(mirror) }
        }
        var tagged = receivers.tagged.intersection(core.mirrored)
        while let port = tagged.popFirst() { watchers.tagged.insert(core.rules[port].mirrorOut) }
        var untagged = receivers.untagged.intersection(core.mirrored)
        while let port = untagged.popFirst() { watchers.untagged.insert(core.rules[port].mirrorOut) }
        var limited = watchers.tagged
        limited.formUnion(watchers.untagged)
        limited = limited.intersection(core.limited)
        while let port = limited.popFirst() {
            if admitOut(packets, i, port) { continue }
            watchers.tagged.remove(port)
            watchers.untagged.remove(port)
        }
        receivers.tagged.formUnion(watchers.tagged)
        receivers.untagged.formUnion(watchers.untagged)
    }

    @inline(__always)
    private func verdict(_ packets: borrowing PacketBurst, _ ports: PortSet) -> Verdict {
        guard ports.count == 1, let port = ports.first else { return packets.verdict(for: ports) }
        return .port(port)
    }

    /// Gives the packet the form in which it leaves; why that cannot be, or -1.
    @inline(__always)
    private func shape(_ packet: borrowing Packet, _ arrival: Arrival, _ isTagged: Bool) -> Int {
        if isAsItGoes(arrival, isTagged) { return -1 }
        if isTagged {
            let control = arrival.control & 0xf000 | arrival.vlan
            if arrival.hasTag {
                guard let tag = VLANTag(packet.bytes, at: Ethernet.size) else { return Cause.malformed }
                tag.controlInformation = control
                return -1
            }
            return packet.pushVLAN(control) ? -1 : Cause.malformed
        }
        if isHidden(arrival) { return Cause.innerTag }
        return packet.popVLAN() == nil ? Cause.malformed : -1
    }
}

// MARK: Frames of the engine's own

extension SwitchCore {
    /// A frame without a tag that says where `mac` is, as if `port` had sent it, and the ports that get it; then the
    /// same with a tag. Empty where the port may not say so.
    func announcement(_ frame: [UInt8], mac: UInt64, from port: Int, seconds: UInt32) -> [(frame: [UInt8], to: [Int])] {
        let vlan = rules[port].untagged
        if vlan == PortRules.noVLAN || rules[port].isMirror || mac & 1 != 0 { return [] }
        if rules[port].checksSource && !isOwn(mac, port) { return [] }
        if !addresses.hear(AddressTable.word(mac, vlan), port: port, seconds: seconds),
            !learn(mac, vlan, port: port, seconds: seconds).passes
        {
            return []
        }
        var (tagged, untagged) = (members[Int(vlan)].tagged, members[Int(vlan)].untagged)
        if rules[port].isIsolated {
            tagged.subtract(isolated)
            untagged.subtract(isolated)
        }
        let others = (0..<portCount).filter { $0 != port }
        let tag = [0x81, 0x00, UInt8(vlan >> 8), UInt8(vlan & 0xff)]
        return [
            (frame, others.filter { untagged.contains($0) }),
            (frame[..<12] + tag + frame[12...], others.filter { tagged.contains($0) }),
        ]
    }
}
