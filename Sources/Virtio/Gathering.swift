import CPlatform

/// What a chain of any shape is gathered into, step by step: the slow path of both formats.
struct Gathering {
    var segments: UnsafeMutablePointer<Segment>
    var capacity: Int
    var count = 0
    var bytes: UInt64 = 0
    /// Buffers of length 0.
    var empties: UInt32 = 0
    /// Readable chains: bytes of net header still to be split off.
    var headerLeft: Int
    var header = NetHeader()
    var wantsWritable: Bool
    /// Control queue: readable buffers, then writable ones, of which the first byte is kept.
    var takesAnswer = false
    var answer: UnsafeMutableRawPointer?
    var descriptors: UInt32 = 0

    @inline(__always)
    init(segments: UnsafeMutablePointer<Segment>, capacity: Int, headerLength: UInt32, wantsWritable: Bool) {
        self.segments = segments
        self.capacity = capacity
        headerLeft = wantsWritable ? 0 : Int(headerLength)
        self.wantsWritable = wantsWritable
    }

    /// Adds host memory; the header's bytes are taken off the front. False when there is no room.
    mutating func append(_ host: UnsafeMutableRawPointer, _ length: UInt32, headerLength: Int) -> Bool {
        var base = host
        var left = length
        if headerLeft > 0 {
            let n = min(headerLeft, Int(left))
            let at = headerLength &- headerLeft
            withUnsafeMutableBytes(of: &header) { CPlat_copy($0.baseAddress.unsafelyUnwrapped + at, base, UInt64(n)) }
            headerLeft &-= n
            base += n
            left &-= UInt32(n)
        }
        bytes &+= UInt64(left)
        if left == 0 { return true }
        if count >= capacity { return false }
        assert(count >= 0 && count < capacity)
        segments[count] = Segment(base: base, length: left)
        count &+= 1
        return true
    }
}

extension MemoryMap {
    /// Bytes from `address` to the end of its region, at most `limit`; 0 outside every region.
    func contiguous(from address: UInt64, atMost limit: UInt64) -> UInt64 {
        if isIdentity { return limit }
        guard let r = region(of: address) else { return 0 }
        return min(limit, r.size &- (address &- r.guestAddress))
    }
}
