import Ringway

/// Layers, keys and all views of headers over a frame that is the fuzzer's, in memory that is exactly as long: whatever
/// stands there, no byte outside may be read or written (AddressSanitizer sees to that) and nothing may trap.
@Sendable func fuzzHeaders(_ given: Input) -> Int32 {
    var input = given
    // What the frame's length is said to be, how much of it is there, and where the views are put besides.
    let more = Int(input.byte())
    let cut = Int(input.byte() % 64)
    let at = Int(Int8(bitPattern: input.byte()))
    let whole = input.left
    let count = max(0, whole - (cut < 32 ? 0 : cut - 32))
    let memory = UnsafeMutableRawPointer.allocate(byteCount: max(1, count), alignment: 1)
    defer { memory.deallocate() }
    input.fill(memory, count)
    let bytes = HeaderBytes(memory, count: count)
    let length = more < 128 ? whole : whole + more - 192

    let layers = Layers(bytes, frameLength: length)
    let sum = Sum.shared
    for offset in [layers.networkOffset, layers.transportOffset, layers.payloadOffset] {
        guard let offset else { continue }
        precondition(offset >= 14 && offset <= count && offset <= length, "an offset outside of what there is")
    }
    if let end = layers.packetEnd { precondition(end <= length, "a packet that ends behind its frame") }
    precondition(layers.defect != .frontTooShort || count < length, "a front that is the whole frame, and too short")
    if let key = FlowKey(bytes, layers) {
        precondition(key.reversed.reversed == key && key.canonical == key.reversed.canonical)
        sum.add(key.hash(sum.seed))
    }
    // As a function would, then anywhere.
    lookAt(bytes, layers.networkOffset ?? 0, sum)
    lookAt(bytes, layers.transportOffset ?? at, sum)
    lookAt(bytes, at, sum)
    if let payload = layers.payloadOffset {
        lookAt(bytes, payload, sum)
        let inner = bytes.dropFirst(payload + 8)
        let innerLayers = Layers(inner, frameLength: inner.count)
        lookAt(inner, innerLayers.transportOffset ?? 0, sum)
    }
    // What was written, once more.
    sum.add(Layers(bytes, frameLength: length).networkOffset)
    return 0
}

/// What is read goes somewhere. libFuzzer calls from one thread.
private final class Sum {
    nonisolated(unsafe) static let shared = Sum()
    let seed = HashSeed(1)
    private var value = 0

    func add(_ v: some BinaryInteger) { value &+= Int(truncatingIfNeeded: v) }
    func add(_ v: Int?) { value &+= v ?? 0 }
}

/// Reads every field of every view that there is at `at`; then writes each.
private func lookAt(_ bytes: HeaderBytes, _ at: Int, _ sum: Sum) {
    if let v = Ethernet(bytes, at: at) {
        sum.add(v.destination.rawValue ^ v.source.rawValue)
        (v.destination, v.source) = (v.source, v.destination)
        v.etherType = EtherType(rawValue: ~v.etherType.rawValue)
        v.etherType = EtherType(rawValue: ~v.etherType.rawValue)
    }
    if let v = VLANTag(bytes, at: at) {
        sum.add(v.priority)
        sum.add(v.vlanID)
        let all = v.controlInformation
        (v.priority, v.dropEligible, v.vlanID) = (v.priority, v.dropEligible, v.vlanID)
        precondition(v.controlInformation == all)
        v.etherType = v.etherType
    }
    if let v = ARP(bytes, at: at) {
        sum.add(v.senderHardwareAddress.rawValue ^ v.targetHardwareAddress.rawValue)
        (v.senderProtocolAddress, v.targetProtocolAddress) = (v.targetProtocolAddress, v.senderProtocolAddress)
        v.operation = .reply
        precondition(ARP(bytes, at: at)?.operation == .reply)
    }
    if let v = IPv4(bytes, at: at) {
        precondition(v.options.lowerBound == at + 20 && v.options.upperBound <= bytes.count)
        for i in v.options { sum.add(bytes[i]) }
        (v.dscp, v.ecn, v.flags, v.fragmentOffset) = (v.ecn, v.dscp, v.flags, v.fragmentOffset)
        (v.totalLength, v.identification) = (v.identification, v.totalLength)
        (v.sourceAddress, v.destinationAddress) = (v.destinationAddress, v.sourceAddress)
        v.protocol = IPProtocol(rawValue: v.timeToLive)
        v.updateChecksum()
        precondition(v.isChecksumValid, "a checksum that was just written is wrong")
        if v.decrementTimeToLive() { precondition(v.isChecksumValid, "the update of a checksum is wrong") }
        v.ihl = 15
        v.updateChecksum()
        sum.add(v.headerChecksum)
    }
    if let v = IPv6(bytes, at: at) {
        (v.trafficClass, v.flowLabel) = (v.trafficClass, v.flowLabel)
        (v.dscp, v.ecn) = (v.dscp, v.ecn)
        precondition(v.version == 6)
        (v.sourceAddress, v.destinationAddress) = (v.destinationAddress, v.sourceAddress)
        sum.add(v.payloadLength)
        sum.add(v.nextHeader.rawValue)
        _ = v.decrementHopLimit()
    }
    if let v = UDP(bytes, at: at) {
        (v.sourcePort, v.destinationPort, v.length, v.checksum) = (
            v.destinationPort, v.sourcePort, v.checksum, v.length
        )
        v.checksum = Checksum.forUDP(Checksum.update(v.checksum, from: v.length, to: v.sourcePort), old: v.checksum)
    }
    if let v = TCP(bytes, at: at) {
        precondition(v.options.lowerBound == at + 20 && v.options.upperBound <= bytes.count)
        for i in v.options { sum.add(bytes[i]) }
        if v.maximumSegmentSize != nil {
            v.maximumSegmentSize = 1400
            precondition(v.maximumSegmentSize == 1400)
        }
        (v.sequenceNumber, v.acknowledgmentNumber) = (v.acknowledgmentNumber, v.sequenceNumber)
        (v.flags, v.reserved, v.window, v.urgentPointer) = (v.flags, v.reserved, v.urgentPointer, v.window)
        v.dataOffset = 15
        sum.add(v.maximumSegmentSize.map { Int($0) })
        sum.add(v.options.upperBound)
    }
    if let v = ICMP(bytes, at: at) {
        (v.type, v.code, v.checksum, v.rest) = (v.code, v.type, v.checksum, v.rest)
        (v.identifier, v.sequenceNumber) = (v.sequenceNumber, v.identifier)
    }
    if let v = NeighborDiscovery(bytes, at: at) {
        sum.add(v.address(.source, length: bytes.count - at)?.rawValue ?? 0)
        sum.add(v.address(.target, length: 4096)?.rawValue ?? 0)
        (v.checksum, v.flags, v.targetAddress) = (v.checksum, v.flags, v.targetAddress)
    }
    if let v = VXLAN(bytes, at: at) {
        v.isVNIValid = !v.isVNIValid
        v.vni = ~v.vni
        sum.add(v.flags)
    }
    if let v = Geneve(bytes, at: at) {
        precondition(v.options.lowerBound == at + 8 && v.options.upperBound <= bytes.count)
        for i in v.options { sum.add(bytes[i]) }
        (v.isControl, v.hasCriticalOptions) = (v.hasCriticalOptions, v.isControl)
        (v.vni, v.protocolType) = (~v.vni, .transparentEthernet)
        v.optionsLength = 63
        sum.add(v.headerLength)
    }
    var checksum = Checksum()
    checksum.add(bytes, at: at, count: 1 + at & 63)
    sum.add(checksum.value)
}
