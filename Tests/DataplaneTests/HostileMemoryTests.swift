import CPlatform
import Glibc
import Ringway
import RingwayLab
import Testing
import VhostUser
import Virtio

/// Memory that a front-end shares and then takes away, changes or withholds, under traffic, with two healthy ports on
/// the same poll thread.
@Suite(.serialized) struct HostileMemoryTests {
    private typealias Bench = HostileRingsTests.Bench

    /// Both rings run and have carried a frame; the transmit ring has more of them.
    private func running(_ isPacked: Bool) throws -> Bench {
        let bench = try Bench(isPacked)
        bench.guest.offerBuffers()
        bench.guest.set(1, 0, bench.guest.buffer(0), bench.guest.write(5, at: bench.guest.buffer(0)))
        bench.guest.show(1, [0])
        for ring in 0...1 { try bench.guest.start(ring) }
        #expect(bench.peer.receive(1).map(\.frame) == [HostileGuest.frame(5)])
        bench.sendToGuest(6)
        #expect(eventually { bench.guest.received == [HostileGuest.frame(6)] })
        return bench
    }

    /// The connection ends, the healthy ports go on, and the next guest is served.
    private func expectEnd(_ bench: Bench) throws {
        #expect(eventually { (try? bench.guest.frontEnd.ask64(.getFeatures)) == nil })
        // What it sent out of what was left.
        bench.peer.drain()
        let next = try HostileGuest(bench.lab.paths[0], isPacked: bench.guest.isPacked)
        next.offerBuffers()
        try next.start(0)
        try next.start(1)
        next.sendAfter(9)
        #expect(bench.peer.receive(1).map(\.frame) == [HostileGuest.frame(9)])
        bench.sendToGuest(8)
        #expect(eventually { next.received == [HostileGuest.frame(8)] })
        bench.finish()
    }

    /// What is left of the file: nothing, the rings, all but the last page of the rings.
    static let cuts = [0, 0x2_0000, 0x1_8000, 4096]

    @Test("a file that is cut off under traffic ends its port's connection alone", arguments: cuts, [false, true])
    func cut(bytes: Int, isPacked: Bool) throws {
        let bench = try running(isPacked)
        let file = bench.guest.memory.descriptor
        // What is written afterwards here would be a SIGBUS of the test's own.
        #expect(ftruncate(file.fd, bytes) == 0)
        bench.sendToGuest(7)
        for _ in 0..<100 { bench.guest.kick(1) }
        if bytes == 0x2_0000 {
            // The rings are whole: their buffers are gone.
            bench.guest.set(1, 1, bench.guest.buffer(1), 100)
            bench.guest.set(1, 120, bench.guest.buffer(1), 100)
            bench.guest.show(1, [120])
            bench.guest.kick(1)
        }
        try expectEnd(bench)
    }

    @Test("a file that is cut off and grows again, again and again, while frames are sent", arguments: [false, true])
    func flickers(isPacked: Bool) throws {
        let bench = try Bench(isPacked)
        bench.guest.frontEnd.close()
        for round in 0..<rounds(100, least: 20) {
            let guest = try HostileGuest(bench.lab.paths[0], isPacked: isPacked)
            guest.offerBuffers()
            for i in 0..<64 { guest.set(1, i, guest.buffer(i), guest.write(i, at: guest.buffer(i)), id: UInt16(i)) }
            guest.show(1, (0..<64).map { UInt16($0) })
            for ring in 0...1 { try guest.start(ring) }
            bench.peer.send(Frame.numbered(8))
            for size in [0x4_0000, 0x8_0000, round % 2 * 0x1_0000, 0x8_0000] {
                ftruncate(guest.memory.descriptor.fd, size)
                guest.kick(1)
            }
            bench.peer.drain()
        }
        bench.finish()
    }

    @Test("holes in rings and buffers are zeroes, nothing else", arguments: [false, true])
    func holes(isPacked: Bool) throws {
        let bench = try running(isPacked)
        let punch = unsafeBitCast(
            try #require(dlsym(nil, "fallocate")), to: (@convention(c) (Int32, Int32, Int, Int) -> Int32).self)
        // FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE: the buffers, then everything.
        let fd = bench.guest.memory.descriptor.fd
        #expect(punch(fd, 3, 0x2_0000, 0x6_0000) == 0)
        bench.sendToGuest(7)
        #expect(eventually { bench.guest.received.last == HostileGuest.frame(7) })
        #expect(punch(fd, 3, 0, 0x8_0000) == 0)
        for n in 0..<20 {
            bench.sendToGuest(n)
            bench.guest.kick(1)
        }
        // A split ring's index has gone back, or it shows descriptor 0, which is none; of a packed ring nothing is
        // available.
        if !isPacked {
            let causes: Set = ["availableIndexJump", "readableInReceive"]
            #expect(
                eventually {
                    let stops = Set(bench.lab.engine.snapshot()[0].stoppedQueues.map(\.cause))
                    return !stops.isEmpty && stops.isSubset(of: causes)
                }, "\(bench.lab.engine.snapshot()[0].stoppedQueues)")
        }
        #expect(bench.peer.settle())
        #expect(try bench.guest.frontEnd.ask64(.getQueueNum) == 1)
        bench.finish()
    }

    /// Seals (fcntl F_ADD_SEALS), and whether Ringway can do with them.
    static let seals: [(Int32, Bool)] = [
        (1, true), (2, true), (4, true), (7, true), (0x08, false), (0x10, false),
    ]

    @Test(
        "memory that is sealed against being written is refused by its name; other seals do no harm", arguments: seals)
    func sealed(seals: Int32, isTaken: Bool) throws {
        let lab = try Lab(ports: 1, .drop)
        let frontEnd = FrontEnd(try MessageSocket.connect(to: lab.paths[0]))
        try frontEnd.negotiate([.version1], [.mq, .replyAck])
        let fd = OwnedDescriptor(CPlat_memfd("sealed", 0, true))
        #expect(ftruncate(fd.fd, 65536) == 0)
        #expect(fcntl(fd.fd, 1033 /* F_ADD_SEALS */, seals) == 0)
        let region = RegionDescription(guestAddress: 0, size: 65536, userAddress: 0, offset: 0)
        if isTaken {
            try frontEnd.share(region, fd)
        } else {
            #expect(throws: VhostUserError.self) { try frontEnd.share(region, fd) }
        }
        #expect(try frontEnd.ask64(.getQueueNum) == 1)
    }

    /// Only this process's own accesses through the front-end's mapping are withheld: a registration belongs to a
    /// mapping, not to its file.
    @Test(
        "a front-end that registers userfaultfd for its mapping withholds nothing from Ringway",
        .enabled(if: geteuid() == 0), arguments: [false, true])
    func userfault(isPacked: Bool) throws {
        let bench = try running(isPacked)
        let call = unsafeBitCast(
            try #require(dlsym(nil, "syscall")), to: (@convention(c) (Int, Int, Int, Int) -> Int).self)
        // __NR_userfaultfd of x86-64, with O_CLOEXEC | O_NONBLOCK.
        let fault = OwnedDescriptor(Int32(call(323, Int(O_CLOEXEC | O_NONBLOCK), 0, 0)))
        try #require(fault.fd >= 0, "userfaultfd: \(errno)")
        // UFFDIO_API, then UFFDIO_REGISTER with UFFDIO_REGISTER_MODE_MISSING of the buffers that no page was given yet.
        var api: [UInt64] = [0xaa, 0, 0]
        try #require(
            call(
                16, Int(fault.fd), Int(bitPattern: 0xc018_aa3f),
                Int(
                    bitPattern: api.withUnsafeMutableBytes {
                        UInt(bitPattern: $0.baseAddress)
                    })) == 0)
        let missing = 0x7_0000
        let punch = unsafeBitCast(
            try #require(dlsym(nil, "fallocate")), to: (@convention(c) (Int32, Int32, Int, Int) -> Int32).self)
        #expect(punch(bench.guest.memory.descriptor.fd, 3, missing, 0x1_0000) == 0)
        var range: [UInt64] = [
            UInt64(UInt(bitPattern: bench.guest.memory.base)) + UInt64(missing), 0x1_0000, 1, 0,
        ]
        try #require(
            call(
                16, Int(fault.fd), Int(bitPattern: 0xc020_aa00),
                Int(
                    bitPattern: range.withUnsafeMutableBytes {
                        UInt(bitPattern: $0.baseAddress)
                    })) == 0)
        // Frames of zeroes out of pages that are not there, which Ringway's own mapping gives it.
        let address = HostileGuest.guest + UInt64(missing)
        for i in 1...4 { bench.guest.set(1, i, address + UInt64(i) * 4096, 100, id: UInt16(i)) }
        bench.guest.show(1, [1, 2, 3, 4])
        bench.guest.kick(1)
        let got = bench.peer.receive(4)
        #expect(got.count == 4 && got.allSatisfy { $0.frame == [UInt8](repeating: 0, count: 88) })
        bench.finish()
    }

    @Test("a tmpfs that is full when a page is wanted ends its port alone", .enabled(if: geteuid() == 0))
    func fullFileSystem() throws {
        var template = Array("/tmp/ringway-full-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template))
        typealias Mount =
            @convention(c) (
                UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafePointer<CChar>, UInt, UnsafePointer<CChar>
            ) -> Int32
        let mount = unsafeBitCast(try #require(dlsym(nil, "mount")), to: Mount.self)
        try #require(mount("none", folder, "tmpfs", 0, "size=64k") == 0, "mount: \(errno)")
        defer {
            let umount = unsafeBitCast(
                dlsym(nil, "umount2"), to: (@convention(c) (UnsafePointer<CChar>, Int32) -> Int32).self)
            _ = umount(folder, 2)
            rmdir(folder)
        }
        let file = OwnedDescriptor(open(folder + "/memory", O_RDWR | O_CREAT | O_CLOEXEC, 0o600))
        // A MiB without pages, of which there can be sixteen.
        try #require(ftruncate(file.fd, 1 << 20) == 0)
        try expectLoss(of: file, bytes: 1 << 20)
    }

    @Test("a huge page that is not there when it is wanted ends its port alone", .enabled(if: freeHugePages == 0))
    func noHugePages() throws {
        let file = OwnedDescriptor(CPlat_memfd("huge", 21, true))
        try #require(file.fd >= 0 && ftruncate(file.fd, 2 << 20) == 0, "errno \(errno)")
        try expectLoss(of: file, bytes: 2 << 20)
    }

    private static var freeHugePages: Int {
        guard let f = fopen("/proc/meminfo", "r") else { return -1 }
        defer { fclose(f) }
        var line = [CChar](repeating: 0, count: 256)
        while fgets(&line, 256, f) != nil {
            if strncmp(line, "HugePages_Free:", 15) == 0 { return Int(atoi(Array(line[15...]))) }
        }
        return 0
    }

    /// A third region of a guest, whose pages cannot all be had: it sends 30 frames out of it.
    private func expectLoss(of file: OwnedDescriptor, bytes: Int) throws {
        let bench = try running(false)
        var payload = Payload(0)
        payload.add(
            RegionDescription(guestAddress: 1 << 40, size: UInt64(bytes), userAddress: 1 << 45, offset: 0))
        try bench.guest.frontEnd.tell(.addMemReg, payload, [file])
        for i in 1...100 { bench.guest.set(1, i, 1 << 40 + UInt64(i * 8192 % bytes), 100) }
        bench.guest.show(1, (1...100).map { UInt16($0) })
        bench.guest.kick(1)
        bench.peer.drain()
        #expect(eventually { (try? bench.guest.frontEnd.ask64(.getFeatures)) == nil })
        bench.finish()
    }
}
