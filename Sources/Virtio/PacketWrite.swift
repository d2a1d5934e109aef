import CPlatform

extension PacketSlot {
    /// Length in bytes of the net header that drivers of VERSION_1 write and read.
    @inlinable public static var headerLength: Int { 12 }

    /// A packet that a device has put into a driver's buffer: the header is read once, here. `length` bytes, the
    /// header's included: less than a header is an empty packet, which screening drops. Returns `num_buffers`, 1 for an
    /// empty one.
    public mutating func receive(at base: UnsafeMutableRawPointer, _ length: UInt32) -> UInt16 {
        let h = UInt32(PacketSlot.headerLength)
        if length < h {
            place(base, 0)
            return 1
        }
        place(base + PacketSlot.headerLength, length &- h)
        header = loadHeader(base)
        return (base + 10).loadUnaligned(as: UInt16.self)
    }
}

extension UnsafeMutablePointer where Pointee == PacketSlot {
    /// Writes a net header (with `num_buffers` 0, 5.1.6.2) and the frame over `count` segments, which hold both:
    /// the one copy on the way to a device.
    public func write(to segments: UnsafeMutablePointer<Segment>, _ count: Int) {
        if count == 1 {
            storeHeader(pointee.header, buffers: 0, to: segments[0].base, length: 12)
            copyFrame(self, to: segments[0].base + PacketSlot.headerLength)
            return
        }
        var header = (UInt64(0), UInt32(0))
        withUnsafeMutableBytes(of: &header) { room in
            let p = room.baseAddress.unsafelyUnwrapped
            storeHeader(pointee.header, buffers: 0, to: p, length: 12)
            var scatter = Scatter(segments)
            scatter.write(p, UInt32(PacketSlot.headerLength))
            scatter.write(self)
        }
    }

    /// Writes the frame without a header over `count` segments, which hold it: the one copy on the way to an interface.
    public func writeFrame(to segments: UnsafeMutablePointer<Segment>, _ count: Int) {
        if count == 1 { return copyFrame(self, to: segments[0].base) }
        var scatter = Scatter(segments)
        scatter.write(self)
    }

    /// Writes the net header alone, 12 bytes, for a frame that goes out from where it lies.
    public func writeHeader(to p: UnsafeMutableRawPointer) {
        storeHeader(pointee.header, buffers: 0, to: p, length: 12)
    }
}
