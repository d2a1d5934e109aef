import Ringway

/// A firewall between port 0 and port 1 that decides by each packet alone: what a rule allows passes to the other
/// port, and so does ARP, without which no host finds another.
///
/// A fragment does not say which ports it is for, so none passes; nor does a packet whose headers lie about lengths.
public struct Firewall: PacketFunction {
    public static let dropCauses = [
        "denied by a rule", "no rule allows it", "fragment", "malformed", "neither IP nor ARP",
    ]
    public static let counters = ["allowed packets", "allowed bytes", "denied packets", "ARP packets"]

    private enum Cause { static let (denied, noRule, fragment, malformed, other) = (0, 1, 2, 3, 4) }
    private enum Count { static let (allowed, bytes, denied, arp) = (0, 1, 2, 3) }

    private var rules: Rules

    /// A firewall with these rules.
    public init(_ rules: Rules) { self.rules = rules }

    /// What it can be told while packets flow.
    public enum Command: Sendable {
        /// Decide by these rules from the next burst on.
        case reload(Rules)
    }

    /// Answers how many rules there are now. The old ones are freed when the last thread has obeyed.
    public mutating func perform(_ command: Command, at time: BurstTime) -> Int {
        switch command {
        case .reload(let new): rules = new
        }
        return rules.count
    }

    public mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        let other = Verdict.port(1 - packets.port)
        for i in 0..<packets.count {
            let packet = packets[i]
            var layers = Layers(packet.bytes, frameLength: packet.length)
            // Many extension headers: look at more of the packet.
            if layers.defect == .frontTooShort {
                packet.extend(to: 256)
                layers = Layers(packet.bytes, frameLength: packet.length)
            }
            if layers.defect != nil {
                packets.drop(i, because: Cause.malformed)
            } else if layers.etherType == .arp {
                packets.count(Count.arp)
                packet.verdict = other
            } else if layers.isFragment {
                packets.drop(i, because: Cause.fragment)
            } else if let flow = FlowKey(packet.bytes, layers) {
                let match = rules.classifier.match(flow)
                if match?.action == Rules.allow {
                    packets.count(Count.allowed)
                    packets.count(Count.bytes, packet.length)
                    packet.verdict = other
                } else {
                    packets.count(Count.denied)
                    packets.drop(i, because: match == nil ? Cause.noRule : Cause.denied)
                }
            } else {
                packets.drop(i, because: Cause.other)
            }
        }
        return nil
    }
}
