import CPlatform
import Glibc
import Memory
import Virtio

/// What a front-end has told of one ring ("Ring states": stopped or started, disabled or enabled).
struct SessionRing: Codable {
    var size: UInt32 = 0
    /// From SET_VRING_BASE, or where the ring stood when it stopped.
    var base: UInt32 = 0
    /// SET_VRING_BASE has come in this life of the ring.
    var isBaseGiven = false
    /// We stopped it ourselves, for want of an address: `base` says exactly where it stands.
    var isPaused = false
    /// The ring's life before ended with GET_VRING_BASE: it starts only where SET_VRING_BASE says.
    var needsBase = false
    /// Where it stood when a status of 0 stopped it, for GET_VRING_BASE alone: QEMU 7.2 sends that one afterwards. No
    /// ring starts there unless SET_VRING_BASE says so.
    var restsAt: UInt32?
    var addresses: RingAddresses?
    /// Nil: none was given since the last stop. A descriptor of -1: NOFD, the ring is polled.
    var kick: OwnedDescriptor?
    var call: OwnedDescriptor?
    var err: OwnedDescriptor?
    /// The front-end kicks by VRING_KICK: `kick` is our own and is written here.
    var kickIsInBand = false
    /// The front-end takes calls as VRING_CALL: `call` is our own and is read here.
    var callIsInBand = false
    var isEnabled = false
    var isStarted = false

    var callFD: Int32 { call?.fd ?? -1 }
    var kickFD: Int32 { kick?.fd ?? -1 }
    var errFD: Int32 { err?.fd ?? -1 }

    /// Nothing of a life that GET_VRING_BASE ended is used in the next: size, base, addresses, kick and call come anew.
    /// Whether it is enabled is the front-end's to say ("Ring states").
    mutating func end() {
        var new = SessionRing()
        (new.isEnabled, new.err, new.base, new.needsBase) = (isEnabled, err, base, true)
        self = new
    }
}

/// One of the three parts of a ring.
struct RingPart: CustomStringConvertible {
    let name: String
    /// A user address of the front-end; with an IOTLB the driver's.
    let address: UInt64
    let bytes: UInt64
    let alignment: UInt64
    /// What the device does there.
    let access: IOTLBAccess

    var description: String { "\(name) 0x\(String(address, radix: 16))" }
}

/// SET_VRING_ADDR, in user addresses of the front-end.
struct RingAddresses: Equatable, Codable {
    var flags: UInt32
    var descriptors: UInt64
    var used: UInt64
    var available: UInt64
    var log: UInt64

    /// Descriptor, driver and device area.
    func parts(_ size: UInt32, isPacked: Bool) -> [RingPart] {
        [
            RingPart(
                name: "descriptor area", address: descriptors, bytes: RingLayout.descriptorBytes(size),
                alignment: RingLayout.descriptorAlignment, access: isPacked ? [.read, .write] : .read),
            RingPart(
                name: "driver area", address: available, bytes: RingLayout.driverAreaBytes(size, isPacked: isPacked),
                alignment: RingLayout.driverAreaAlignment(isPacked: isPacked), access: .read),
            RingPart(
                name: "device area", address: used, bytes: RingLayout.deviceAreaBytes(size, isPacked: isPacked),
                alignment: RingLayout.deviceAreaAlignment(isPacked: isPacked), access: .write),
        ]
    }

    /// Host addresses of the ring's parts, as `translate` finds them, or the error that names what lies outside or is
    /// not aligned.
    func setup(
        _ index: Int, size: UInt32, base: UInt32, features: Features, map: MemoryMap,
        translate: (RingPart) -> UnsafeMutableRawPointer?
    ) throws(VhostUserError) -> RingSetup {
        let isPacked = features.contains(.ringPacked)
        guard RingLayout.isValid(size: size, isPacked: isPacked) else {
            throw VhostUserError(
                .ring, "ring \(index): size \(size) is not one that a \(isPacked ? "packed" : "split") ring can have")
        }
        var hosts: [UnsafeMutableRawPointer] = []
        for part in parts(size, isPacked: isPacked) {
            guard part.address % part.alignment == 0 else {
                throw VhostUserError(.address, "ring \(index): \(part) is not aligned to \(part.alignment)")
            }
            guard let host = translate(part) else {
                throw VhostUserError(
                    .address, "ring \(index): \(part)+\(part.bytes) is outside guest memory, or in several pieces of it"
                )
            }
            hosts.append(host)
        }
        let position = RingPosition(base: base, isPacked: isPacked)
        let isBeyond =
            isPacked ? UInt32(position.available) >= size || UInt32(position.used) >= size : base > UInt32(UInt16.max)
        if isBeyond {
            throw VhostUserError(.ring, "ring \(index): base 0x\(String(base, radix: 16)) is beyond a ring of \(size)")
        }
        return RingSetup(
            size: size, isPacked: isPacked, descriptors: hosts[0], driverArea: hosts[1], deviceArea: hosts[2],
            position: position, features: features, map: map)
    }
}
