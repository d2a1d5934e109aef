import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import Virtio

func fired(_ fd: OwnedDescriptor) -> Bool {
    var n: UInt64 = 0
    return read(fd.fd, &n, 8) == 8
}

extension ControlPlane {
    @Suite("Masks") struct MaskTests {
        /// A started `VhostNet` and its back-end's side of a call.
        private func check(_ vhost: VhostNet, _ rings: Rings, _ call: (UInt32) -> Void) throws {
            // Before the start calls go to the masked eventfd; the start discards them.
            call(0)
            #expect(vhost.isPending(ring: 0) && !vhost.isPending(ring: 0))
            call(0)
            try vhost.mask(ring: 1, true)
            try vhost.acknowledge([.version1])
            try vhost.start(rings.all, memory: [rings.region])
            #expect(!vhost.isPending(ring: 0))
            call(0)
            call(1)
            #expect(fired(rings.calls[0]) && !fired(rings.calls[1]))
            try vhost.mask(ring: 1, false)
            #expect(fired(rings.calls[1]) && !vhost.isPending(ring: 1))
            call(1)
            #expect(fired(rings.calls[1]))
            try vhost.mask(ring: 0, true)
            call(0)
            #expect(vhost.isPending(ring: 0) && !fired(rings.calls[0]))
            try vhost.mask(ring: 0, false)
            #expect(!fired(rings.calls[0]))
            #expect(!vhost.hasFailed(ring: 0))
            #expect(throws: VhostError.self) { try vhost.mask(ring: 9, true) }
        }

        @Test(
            "a masked queue's calls are pending and delivered when it is unmasked",
            arguments: [VhostKind.kernel, .user, .vdpa])
        func masks(kind: VhostKind) throws {
            let rings = try Rings(2)
            let fake = FakeDevice()
            switch kind {
            case .kernel: try check(try fake.kernel(), rings) { fake.fire(fake.calls[$0]) }
            case .vdpa:
                try check(try VhostNet(VDPABackend(path: "/dev/vhost-vdpa-0", calls: fake)), rings) {
                    fake.fire(fake.calls[$0])
                }
            case .user:
                let peer = FakePeer()
                defer { peer.release() }
                try check(try peer.vhost(), rings) { peer.call($0) }
            }
        }
    }
}
