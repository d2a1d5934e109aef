import Glibc
import Memory
import Virtio

/// A socket with what has been read of a message that is not whole yet.
package struct SocketState: Codable {
    var descriptor: OwnedDescriptor
    var bytes: [UInt8]
    var descriptors: [OwnedDescriptor]
}

/// All that a session knows, for a process that takes it over. Rings that run are said to; where each of them stands is
/// told when it has stopped (`RingPlaces`).
package struct SessionState: Codable {
    struct Region: Codable {
        var guestAddress, size, userAddress, offset: UInt64
        var count: Int
        var file: OwnedDescriptor
    }
    struct Entry: Codable {
        var address, size, userAddress: UInt64
        var access: UInt8
    }
    struct Shared: Codable {
        var size, offset: UInt64
        var file: OwnedDescriptor
    }
    struct Inflight: Codable {
        var region: Shared
        var queues: Int
        var queueSize: UInt32
    }
    var features: UInt64
    var isNegotiated: Bool
    var protocolFeatures: UInt64
    var status: UInt8
    var memory: [Region]
    var entries: [Entry]
    var askedFor: [UInt64]
    var rings: [SessionRing]
    var dirtyLog: Shared?
    var inflight: Inflight?
    var channel: SocketState?

    /// Rings that run.
    package var running: [Int] { rings.indices.filter { rings[$0].isStarted } }
}

/// Where rings that were stopped stand, by number: as GET_VRING_BASE says it.
package typealias RingPlaces = [Int: UInt32]

/// To hand a session on, and to take one over. Nothing else happens to the session meanwhile: its thread waits, or does
/// not run yet.
extension BackEndSession {
    /// Stops of rings that run. When the device has made them: `noteHeld`.
    package func stops(where isWanted: (_ ring: Int) -> Bool) -> [RingChange] {
        rings.indices.filter { rings[$0].isStarted && isWanted($0) }.map { RingChange($0, .stop) }
    }

    /// Rings have stopped, and start exactly where they stand, here or elsewhere.
    package func noteHeld(_ changes: [RingChange], _ positions: [RingPosition?]) {
        note(changes, positions)
        for change in changes { rings[change.ring].isPaused = true }
    }

    /// Where these stand is theirs to say: others may have used them since.
    package func forgetPlaces(of held: [Int]) { for i in held { rings[i].isPaused = false } }

    /// Where rings that were held stand, and others that wait for an address.
    package var heldPlaces: RingPlaces {
        Dictionary(uniqueKeysWithValues: rings.indices.filter { rings[$0].isPaused }.map { ($0, rings[$0].base) })
    }

    /// Call descriptors of rings that have one.
    package var calls: [(ring: Int, fd: Int32)] {
        rings.indices.filter { rings[$0].callFD >= 0 }.map { ($0, rings[$0].callFD) }
    }

    /// All files are as long as what is mapped of them.
    var hasWholeFiles: Bool {
        memory.hasWholeFiles && dirtyLog?.hasWholeFile ?? true && inflight?.region.hasWholeFile ?? true
    }

    /// What another process needs to go on with this session.
    package var state: SessionState {
        get throws {
            func shared(_ region: SharedRegion) -> SessionState.Shared {
                .init(size: region.size, offset: region.place.offset, file: region.place.file)
            }
            return SessionState(
                features: features.rawValue, isNegotiated: isNegotiated, protocolFeatures: protocolFeatures.rawValue,
                status: status,
                memory: memory.origins.map {
                    .init(
                        guestAddress: $0.region.guestAddress, size: $0.region.size,
                        userAddress: $0.region.userAddress, offset: $0.region.offset, count: $0.count, file: $0.file)
                },
                entries: iotlb.entries.map {
                    .init(address: $0.address, size: $0.size, userAddress: $0.userAddress, access: $0.access.rawValue)
                },
                askedFor: Array(askedFor), rings: rings, dirtyLog: dirtyLog.map(shared),
                inflight: inflight.map {
                    .init(region: shared($0.region), queues: $0.queues, queueSize: $0.queueSize)
                },
                channel: try channel?.state)
        }
    }

    /// Goes on as another process's session, none of whose data rings runs here yet. Errors: what cannot be mapped.
    package func adopt(_ state: SessionState) throws {
        guard state.rings.count == rings.count else {
            throw VhostUserError(.ring, "\(state.rings.count) rings are handed over; this port has \(rings.count)")
        }
        features = Features(rawValue: state.features)
        isNegotiated = state.isNegotiated
        protocolFeatures = ProtocolFeatures(rawValue: state.protocolFeatures)
        status = state.status
        for r in state.memory {
            let region = RegionDescription(
                guestAddress: r.guestAddress, size: r.size, userAddress: r.userAddress, offset: r.offset)
            for _ in 0..<r.count { memory = try memory.adding(region, fd: r.file.fd, lossFD: lossFD) }
        }
        let entries = state.entries.map {
            IOTLBEntry(
                address: $0.address, size: $0.size, userAddress: $0.userAddress,
                access: IOTLBAccess(rawValue: $0.access))
        }
        iotlb = IOTLB(entries, memory)
        askedFor = Set(state.askedFor)
        func shared(_ name: String, _ s: SessionState.Shared) throws -> SharedRegion {
            try SharedRegion(name, offset: s.offset, size: s.size, fd: s.file.fd, lossFD: lossFD)
        }
        dirtyLog = try state.dirtyLog.map { try shared("the dirty log", $0) }
        inflight = try state.inflight.map {
            InflightRegion(
                region: try shared("the inflight region", $0.region), queues: $0.queues, queueSize: $0.queueSize)
        }
        channel = try state.channel.map { try MessageSocket($0, keeps: .all) }
        rings = state.rings
        for i in rings.indices {
            // Those that ran start where they stand, which is told later.
            rings[i].isPaused = rings[i].isPaused || rings[i].isStarted
            rings[i].isStarted = false
        }
    }

    /// Has this process's page tables show the parts of rings that are to start: one by one, as they are used first,
    /// that would take long.
    package func showPages(of changes: [RingChange]) {
        for case .start(let start) in changes.map(\.what) {
            let (setup, size) = (start.setup, start.setup.size)
            show(setup.descriptors, RingLayout.descriptorBytes(size), isWritten: setup.isPacked)
            show(setup.driverArea, RingLayout.driverAreaBytes(size, isPacked: setup.isPacked), isWritten: false)
            show(setup.deviceArea, RingLayout.deviceAreaBytes(size, isPacked: setup.isPacked), isWritten: true)
        }
    }

    /// What cannot be shown is found out when it is used.
    private func show(_ start: UnsafeMutableRawPointer, _ bytes: UInt64, isWritten: Bool) {
        let (page, first) = (UInt(4096), UInt(bitPattern: start))
        let (begin, end) = (first & ~(page - 1), (first + UInt(bytes) + page - 1) & ~(page - 1))
        // MADV_POPULATE_READ and _WRITE of Linux 5.14; an older kernel refuses them.
        _ = madvise(UnsafeMutableRawPointer(bitPattern: begin), Int(end - begin), isWritten ? 23 : 22)
    }

    /// Where rings that ran there stand now. Errors: the session does not know such a ring.
    package func adopt(_ places: RingPlaces) throws(VhostUserError) {
        for (i, base) in places {
            let i = try ring(i, .setVringBase)
            (rings[i].base, rings[i].isPaused) = (base, true)
        }
    }
}

extension MessageSocket {
    /// This socket, for a process that takes it over.
    var state: SocketState {
        get throws {
            SocketState(descriptor: try OwnedDescriptor(copyOf: fd), bytes: partial, descriptors: partialDescriptors)
        }
    }

    /// A socket of another process.
    convenience init(_ state: SocketState, keeps: Kept) throws {
        self.init(try state.descriptor.copy(), keeps: keeps)
        (partial, partialDescriptors) = (state.bytes, state.descriptors)
    }
}
