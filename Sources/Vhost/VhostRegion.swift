import Memory

/// Memory that the back-end may reach. Its user address is where it is mapped in this process.
public struct VhostRegion: Sendable {
    /// Guest physical address (kernel and user), IOVA (vDPA, and everywhere with ACCESS_PLATFORM).
    public var guestAddress: UInt64
    /// Bytes.
    public var size: UInt64
    /// Where it is mapped in this process.
    public var userAddress: UInt64
    /// The file behind it, for vhost-user; from `offset` in it.
    public var descriptor: OwnedDescriptor
    /// Where the region starts in its file, in bytes.
    public var offset: UInt64
    /// VDPA: the one address space that it is mapped into; nil: every one in use.
    public var addressSpace: UInt32?
    /// What unmaps the memory when nobody holds it any more. A device that runs holds it: its stop, and so its end,
    /// reads rings of a back-end that does not answer. Nil: the caller keeps the memory until then.
    public var owner: (any AnyObject & Sendable)?

    /// Nothing is mapped or checked here: `VhostNet.start` does that.
    public init(
        guestAddress: UInt64, size: UInt64, userAddress: UInt64, descriptor: OwnedDescriptor, offset: UInt64 = 0,
        owner: (any AnyObject & Sendable)? = nil
    ) {
        self.guestAddress = guestAddress
        self.size = size
        self.userAddress = userAddress
        self.descriptor = descriptor
        self.offset = offset
        self.owner = owner
    }

    /// All of `memory`, which it holds; addresses as in this process.
    public init(_ memory: HostMemory) {
        let r = memory.region
        self.init(
            guestAddress: r.guestAddress, size: r.size, userAddress: r.userAddress, descriptor: memory.descriptor,
            owner: memory)
    }

    var withoutOwner: VhostRegion {
        var region = self
        region.owner = nil
        return region
    }
}
