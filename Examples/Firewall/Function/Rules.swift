import Ringway

/// A firewall's rules, as its function looks them up: made once, then only read, so that all threads share one value.
public final class Rules: Sendable {
    /// Allow or deny, by the numbers that the classifier gives back.
    static let (deny, allow): (UInt32, UInt32) = (0, 1)

    let classifier: Classifier
    /// Rules that there are.
    public var count: Int { classifier.count }

    /// What is wrong with a line.
    public struct SyntaxError: Error, CustomStringConvertible {
        /// From 1 on; 0: the text as a whole.
        public var line: Int
        /// What is wrong.
        public var text: String
        public var description: String { line == 0 ? text : "line \(line): \(text)" }
    }

    /// From text, a rule a line; the first that matches a packet counts, and one that none matches is denied.
    ///
    ///     allow tcp from any to 192.0.2.0/24 port 80-443   # comment
    ///     deny any from 2001:db8:bad::/48 to any
    public init(_ text: String) throws(SyntaxError) {
        var rules: [ClassifierRule] = []
        for (i, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            let words = line.prefix { $0 != "#" }.split(whereSeparator: \.isWhitespace)[...]
            if words.isEmpty { continue }
            do throws(Problem) { rules.append(try Rules.rule(words)) } catch {
                throw SyntaxError(line: i + 1, text: error.text)
            }
        }
        do { classifier = try Classifier(rules) } catch {
            throw SyntaxError(line: 0, text: "\(rules.count) rules; at most \(Classifier.mostRules) are possible")
        }
    }

    private struct Problem: Error { var text: String }

    private static func rule(_ words: ArraySlice<Substring>) throws(Problem) -> ClassifierRule {
        var words = words
        let action: UInt32
        switch words.popFirst() {
        case "allow": action = allow
        case "deny": action = deny
        case let other: throw Problem(text: "'\(other ?? "")' where 'allow' or 'deny' stands")
        }
        var rule = ClassifierRule(action: action)
        rule.protocol = try ipProtocol(words.popFirst())
        try expect("from", &words)
        (rule.source, rule.sourcePorts) = try end(&words, rule.protocol)
        try expect("to", &words)
        (rule.destination, rule.destinationPorts) = try end(&words, rule.protocol)
        if let word = words.first { throw Problem(text: "'\(word)' where the line ends") }
        return rule
    }

    private static func expect(_ word: Substring, _ words: inout ArraySlice<Substring>) throws(Problem) {
        let found = words.popFirst()
        if found != word { throw Problem(text: "'\(found ?? "")' where '\(word)' stands") }
    }

    private static func ipProtocol(_ word: Substring?) throws(Problem) -> IPProtocol? {
        switch word {
        case "any": return nil
        case "tcp": return .tcp
        case "udp": return .udp
        case "icmp": return .icmp
        case "icmp6": return .icmpV6
        case "sctp": return .sctp
        default:
            guard let number = word.flatMap({ UInt8($0) }) else {
                throw Problem(text: "'\(word ?? "")' is no protocol: any, tcp, udp, icmp, icmp6, sctp or a number")
            }
            return IPProtocol(rawValue: number)
        }
    }

    /// `ADDRESSES [port N[-M]]`.
    private static func end(_ words: inout ArraySlice<Substring>, _ proto: IPProtocol?) throws(Problem) -> (
        ClassifierRule.Addresses, ClosedRange<UInt16>
    ) {
        let word = words.popFirst() ?? ""
        guard let addresses = ClassifierRule.Addresses(String(word)) else {
            throw Problem(text: "'\(word)' is no address: any, or a prefix such as 192.0.2.0/24 or 2001:db8::/32")
        }
        guard words.first == "port" else { return (addresses, 0...0xffff) }
        words.removeFirst()
        guard let proto, proto.hasPorts else { throw Problem(text: "a port, but no protocol that has ports") }
        let text = words.popFirst() ?? ""
        let numbers = text.split(separator: "-", omittingEmptySubsequences: false).map { UInt16($0) }
        guard (1...2).contains(numbers.count), let first = numbers[0], let last = numbers[numbers.count - 1],
            first <= last
        else { throw Problem(text: "'\(text)' is no port: a number, or two such as 1024-65535") }
        return (addresses, first...last)
    }
}
