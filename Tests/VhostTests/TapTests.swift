import CPlatform
import Glibc
import Memory
import Testing
import Vhost
import Virtio

extension ControlPlane {
    @Suite("TAP") struct TapTests {
        private func kind(_ body: () throws -> Void) -> VhostError.Kind? {
            do { try body() } catch { return (error as? VhostError)?.kind }
            return nil
        }

        @Test(
            """
            a header of 12 bytes, of 10, and none: MRG_RXBUF goes with the short one, VHOST_NET_F_VIRTIO_NET_HDR \
            comes with none
            """
        )
        func header() throws {
            func open(_ set: (FakeDevice) -> Void) throws -> (VhostNet, Int, FakeDevice) {
                let fake = FakeDevice()
                set(fake)
                let tap = try Tap(name: "tap9", calls: fake)
                let vhost = try VhostNet(KernelBackend(tap: tap, calls: fake))
                try vhost.acknowledge(vhost.features(of: [.version1, .mrgRxbuf]))
                let rings = try Rings(2)
                try vhost.start(rings.all, memory: [rings.region])
                return (vhost, tap.headerLength, fake)
            }
            var (vhost, length, fake) = try open { _ in }
            #expect(length == 12 && fake.acknowledged == [.version1, .mrgRxbuf])
            (vhost, length, fake) = try open { $0.hasShortHeader = true }
            #expect(length == 10 && fake.acknowledged == [.version1] && !vhost.backend.offered.contains(.mrgRxbuf))
            (vhost, length, fake) = try open { $0.tunFeatures = UInt32(IFF_MULTI_QUEUE) }
            #expect(length == 0 && fake.acknowledged == [.version1, .mrgRxbuf, .vhostNetHeader])
            #expect(!fake.trace.contains("TUNSETVNETHDRSZ"))
            let poor = FakeDevice()
            (poor.tunFeatures, poor.features) = (0, Features([.version1]).rawValue)
            let error = #expect(throws: VhostError.self) { _ = try poor.kernel() }
            #expect(error?.kind == .features && error!.description.contains("mask 0x8000000"))
        }

        @Test("offloads as the receiver took them; USO is left out where the kernel has none")
        func offloads() throws {
            let fake = FakeDevice()
            let tap = try Tap(name: "tap9", queues: 2, calls: fake)
            try tap.setOffloads([.guestCsum, .guestTSO4, .guestTSO6, .guestECN, .guestUSO4, .guestUSO6])
            #expect(fake.offloads == 0x6f && tap.hasUSO)
            try tap.setOffloads([.guestTSO4])
            #expect(fake.offloads == 0)
            fake.unknownOffloads = 0x60
            let old = try Tap(name: "tap9", calls: fake)
            try old.setOffloads([.guestCsum, .guestTSO4, .guestUSO4, .guestUSO6])
            #expect(fake.offloads == 3 && !old.hasUSO)
        }

        @Test("what is no TAP, or has no name that an interface can have, is refused")
        func wrong() throws {
            #expect(kind { _ = try Tap(descriptors: [OwnedDescriptor(CPlat_eventfd(0))]) } == .argument)
            #expect(kind { _ = try Tap(descriptors: []) } == .argument)
            #expect(kind { _ = try Tap(name: "a-name-that-is-too-long", calls: FakeDevice()) } == .argument)
            #expect(kind { _ = try Tap(name: "tap9", queues: 0, calls: FakeDevice()) } == .argument)
        }
    }

    @Suite(
        "A TAP of this kernel", .enabled(if: access("/dev/net/tun", R_OK | W_OK) == 0 && geteuid() == 0), .serialized)
    struct RealTapTests {
        private let name = "rwt\(getpid() % 100_000)"
        private var isThere: Bool { access("/sys/class/net/\(name)", F_OK) == 0 }

        @Test("made by name with two queues, attached by descriptor, gone with the last of them")
        func byDescriptor() throws {
            let before = openDescriptors()
            do {
                let tap = try Tap(name: name, queues: 2)
                #expect(tap.name == name && tap.headerLength == 12 && tap.queues.count == 2 && isThere)
                try tap.setOffloads([.guestCsum, .guestTSO4, .guestTSO6])
                let copies = tap.queues.map { OwnedDescriptor(fcntl($0.fd, F_DUPFD_CLOEXEC, 0)) }
                let other = try Tap(descriptors: copies)
                #expect(other.name == name && other.headerLength == 12 && other.queues.count == 2)
                // One queue of a multi-queue interface is a queue as any other.
                #expect(try Tap(name: name).queues.count == 1)
            }
            #expect(!isThere && openDescriptors() == before)
        }

        @Test("a persistent one stays and is attached to again; a second program is told that it is taken")
        func persistent() throws {
            do { _ = try Tap(name: name, isPersistent: true) }
            #expect(isThere)
            do {
                let again = try Tap(name: name)
                #expect(again.name == name && again.headerLength == 12)
                // Made for one queue it does not take two.
                let error = #expect(throws: VhostError.self) { _ = try Tap(name: name, queues: 2) }
                #expect(error!.description.contains(name) && error!.description.contains("ip tuntap add"))
                #expect(throws: VhostError.self) { _ = try Tap(name: name) }
                // By value: zero makes it go with its last descriptor.
                #expect(SystemCalls().control(again.queues[0].fd, .tunSetPersist, number: 0) >= 0)
            }
            #expect(!isThere)
        }
    }
}
