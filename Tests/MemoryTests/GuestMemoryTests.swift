import CPlatform
import Glibc
import Memory
import Testing
import Virtio

/// A memfd of `pages` pages whose 64-bit words tell their offset.
func file(pages: Int, name: String = "ringway-test") -> OwnedDescriptor {
    let fd = OwnedDescriptor(CPlat_memfd(name, 0, false))
    ftruncate(fd.fd, pages * 4096)
    for page in 0..<pages {
        let words = (0..<512).map { UInt64(page * 4096 + $0 * 8) }
        _ = words.withUnsafeBytes { pwrite(fd.fd, $0.baseAddress, 4096, page * 4096) }
    }
    return fd
}

/// Mappings of a memfd in this process.
func mappings(_ name: String) -> Int {
    guard let f = fopen("/proc/self/maps", "r") else { return -1 }
    defer { fclose(f) }
    var (count, line) = (0, [CChar](repeating: 0, count: 512))
    while fgets(&line, 512, f) != nil { if strstr(line, name) != nil { count += 1 } }
    return count
}

@Suite(.serialized) struct GuestMemoryTests {
    private func region(_ guest: UInt64, _ size: UInt64, user: UInt64? = nil, offset: UInt64 = 0) -> RegionDescription {
        RegionDescription(
            guestAddress: guest, size: size, userAddress: user ?? guest + 0x7000_0000_0000, offset: offset)
    }

    @Test("translation at the borders of regions, by guest and by user address")
    func translation() throws {
        let fd = file(pages: 8)
        // Not aligned to a page of the file.
        var memory = try GuestMemory().adding(region(0x1000, 0x2000, offset: 24), fd: fd.fd)
        memory = try memory.adding(region(0x10000, 0x1000, offset: 0x4000), fd: fd.fd)
        let map = memory.map
        func word(_ p: UnsafeMutableRawPointer?) -> UInt64 { p?.load(as: UInt64.self) ?? .max }
        #expect(word(map.translate(0x1000, 8)) == 24)
        #expect(word(map.translate(0x2ff8, 8)) == 24 + 0x1ff8)
        #expect(word(map.translate(0x10000, 0x1000)) == 0x4000)
        for (address, length): (UInt64, UInt64) in [
            (0xfff, 8), (0x2ff9, 8), (0x3000, 1), (0x1000, 0x2001), (0x10fff, 2), (UInt64.max, 2), (0x1000, UInt64.max),
            (0, 0x1001),
        ] {
            #expect(map.translate(address, length) == nil, "\(address)+\(length)")
        }
        #expect(word(map.translateUser(0x7000_0000_1000, 8)) == 24)
        #expect(map.translateUser(0x1000, 8) == nil && map.translateUser(0x7000_0000_2ff9, 8) == nil)
    }

    @Test("what cannot be mapped is refused with the region's address")
    func refused() throws {
        let fd = file(pages: 4)
        let good = try GuestMemory().adding(region(0x10000, 0x2000), fd: fd.fd)
        var ends: [Int32] = [0, 0]
        pipe(&ends)
        defer { for e in ends { close(e) } }
        let cases: [(RegionDescription, Int32, String)] = [
            (region(0x10000, 0x1000, user: 0), fd.fd, "overlaps"), (region(0xf000, 0x1001, user: 0), fd.fd, "overlaps"),
            (region(0x11fff, 1, user: 0), fd.fd, "overlaps"),
            (region(0, 0x1000, user: 0x7000_0001_1000), fd.fd, "user addresses"),
            (region(0x20000, 0), fd.fd, "empty"), (region(UInt64.max - 0xfff, 0x1001, user: 0), fd.fd, "address space"),
            (region(0x20000, UInt64.max, user: 0), fd.fd, "address space"),
            (region(0x20000, 0x1000, user: UInt64.max), fd.fd, "address space"),
            (region(0x20000, 0x4001), fd.fd, "beyond the file"),
            (region(0x20000, 0x1000, offset: 0x3001), fd.fd, "beyond the file"),
            (region(0x20000, 0x1000, offset: UInt64.max), fd.fd, "beyond the file"),
            (region(0x20000, 0x1000), ends[0], "not a file"),
            (region(0x20000, 0x1000), -1, "not a file"),
        ]
        for (region, fd, text) in cases {
            #expect { try good.adding(region, fd: fd) } throws: { "\($0)".contains(text) && "\($0)".contains("0x") }
        }
        #expect { try good.removing(region(0x10000, 0x1000)) } throws: { "\($0)".contains("no region") }
    }

    @Test("509 regions are taken, one more is not; removing makes room")
    func many() throws {
        let fd = file(pages: 1)
        var memory = GuestMemory()
        for i in 0..<509 { memory = try memory.adding(region(UInt64(i) << 20, 4096), fd: fd.fd) }
        #expect(throws: MemoryError.self) { try memory.adding(region(1 << 40, 4096), fd: fd.fd) }
        memory = try memory.removing(region(5 << 20, 4096))
        #expect(memory.map.translate(5 << 20, 1) == nil && memory.map.translate(508 << 20, 4096) != nil)
        memory = try memory.adding(region(1 << 40, 4096), fd: fd.fd)
        #expect(memory.regions.count == 509)
    }

    @Test("a file of empty pages cannot take the whole address space, at once or bit by bit")
    func addressSpace() throws {
        let fd = OwnedDescriptor(CPlat_memfd("ringway-sparse", 0, false))
        try #require(ftruncate(fd.fd, 1 << 46) == 0)
        #expect { try GuestMemory().adding(region(0, 1 << 46, user: 0), fd: fd.fd) } throws: {
            "\($0)".contains("region 0x0: size 0x400000000000")
        }
        var memory = GuestMemory()
        #expect(throws: MemoryError.self) {
            for i in 0..<16 {
                memory = try memory.adding(region(UInt64(i) << 41, 1 << 41, user: UInt64(i) << 41), fd: fd.fd)
            }
        }
        #expect(memory.regions.count == 4)
        memory = try memory.removing(region(0, 1 << 41, user: 0)).adding(region(0, 1 << 41, user: 0), fd: fd.fd)
        #expect(memory.regions.count == 4)
    }

    @Test("a region that is added twice, as QEMU does with several queue pairs, is counted")
    func twice() throws {
        let fd = file(pages: 4)
        let r = region(0x1000, 0x1000)
        let memory = try GuestMemory().adding(r, fd: fd.fd).adding(r, fd: fd.fd)
        #expect(memory.regions.count == 1)
        let once = try memory.removing(r)
        #expect(once.map.translate(0x1000, 8) != nil)
        #expect(try once.removing(r).regions.isEmpty)
        // The same addresses, but another file, or another place in it.
        #expect(throws: MemoryError.self) { try memory.adding(r, fd: file(pages: 4).fd) }
        #expect(throws: MemoryError.self) { try memory.adding(region(0x1000, 0x1000, offset: 0x1000), fd: fd.fd) }
    }

    @Test("one descriptor is kept of each file, as long as it is mapped, and shows the same memory elsewhere")
    func origins() throws {
        func descriptors(_ name: String) -> Int {
            (0..<4096).filter { fd in
                var path = [CChar](repeating: 0, count: 128)
                return readlink("/proc/self/fd/\(fd)", &path, 127) > 0 && strstr(path, name) != nil
            }.count
        }
        let name = "ringway-origins"
        var files: [OwnedDescriptor]? = (0..<100).map { _ in file(pages: 2, name: name) }
        var memory: GuestMemory? = GuestMemory()
        for i in 0..<200 {
            let r = region(UInt64(i) << 20, 4096, offset: UInt64(i % 2) * 4096)
            memory = try memory!.adding(r, fd: files![i / 2].fd)
        }
        memory = try memory!.adding(region(0, 4096), fd: files![0].fd)
        #expect(descriptors(name) == 200)
        files = nil
        #expect(descriptors(name) == 100)
        var second: GuestMemory? = GuestMemory()
        for (region, count, file) in memory!.origins {
            for _ in 0..<count { second = try second!.adding(region, fd: file.fd) }
        }
        #expect(descriptors(name) == 200 && second!.origins.map(\.count) == [2] + Array(repeating: 1, count: 199))
        memory!.map.translate(7 << 20, 8)!.storeBytes(of: 77, as: UInt64.self)
        #expect(second!.map.translate(7 << 20, 8)!.load(as: UInt64.self) == 77)
        // A file goes with its last region.
        second = try second!.removing(region(1 << 20, 4096))
        #expect(descriptors(name) == 200)
        second = try second!.removing(region(0, 4096)).removing(region(0, 4096))
        #expect(descriptors(name) == 199)
        memory = nil
        #expect(descriptors(name) == 99)
        second = nil
        #expect(descriptors(name) == 0)
    }

    @Test("mappings go with the last value that holds them")
    func unmapping() throws {
        let name = "ringway-unmap"
        let fd = file(pages: 4, name: name)
        var first: GuestMemory? = try GuestMemory().adding(region(0x1000, 0x1000), fd: fd.fd)
        var second: GuestMemory? = try first!.adding(region(0x8000, 0x1000, offset: 0x2000), fd: fd.fd)
        #expect(mappings(name) == 2)
        first = nil
        #expect(mappings(name) == 2)
        second = try second!.removing(region(0x1000, 0x1000))
        #expect(mappings(name) == 1)
        second = nil
        #expect(mappings(name) == 0)
    }

    @Test("a file that is truncated behind its mapping reads as zeroes and says so, once")
    func truncated() throws {
        let fd = file(pages: 4)
        let loss = OwnedDescriptor(CPlat_eventfd(0))
        let memory = try GuestMemory().adding(region(0x1000, 0x4000), fd: fd.fd, lossFD: loss.fd)
        let p = try #require(memory.map.translate(0x1000, 0x4000))
        #expect((p + 8).load(as: UInt64.self) == 8)
        ftruncate(fd.fd, 0)
        #expect((p + 4096).load(as: UInt64.self) == 0)
        p.storeBytes(of: 5, as: UInt64.self)
        var count: UInt64 = 0
        #expect(read(loss.fd, &count, 8) == 8 && count >= 1)
    }

    @Test("a place of the guard that is used again while an access faults stands for nothing but what it was given for")
    func placesReused() throws {
        let other = OwnedDescriptor(CPlat_eventfd(0))
        // Neither holds an address of the memory below, which comes about where `near` is; the base of the one with
        // the length of the other does.
        let near = try #require(mmap(nil, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        munmap(near, 4096)
        let low = try #require(UnsafeMutableRawPointer(bitPattern: 4096))
        let decoys = [(near - (1 << 29), 4096), (low, 1 << 30)]
        final class Flag: @unchecked Sendable { let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1) }
        let stop = Flag()
        stop.word.initialize(to: 0)
        // Two places that the handler sees before that of the memory below.
        var handles = (0..<2).map { _ in CPlat_guard(decoys[0].0, 4096, other.fd) }
        var thread = pthread_t()
        nonisolated(unsafe) let (far, fd) = (decoys, other.fd)
        let body = Body {
            var n = 0
            while CPlat_load32_relaxed(stop.word) == 0 {
                for k in 0..<2 {
                    CPlat_unguard(handles[k])
                    handles[k] = CPlat_guard(far[(n + k) % 2].0, far[(n + k) % 2].1, fd)
                }
                n += 1
            }
        }
        pthread_create(
            &thread, nil,
            { raw in
                Unmanaged<Body>.fromOpaque(raw!).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(body).toOpaque())
        for round in 0..<2000 {
            let file = file(pages: 1)
            let loss = OwnedDescriptor(CPlat_eventfd(0))
            let memory = try GuestMemory().adding(region(0x1000, 0x1000), fd: file.fd, lossFD: loss.fd)
            let p = try #require(memory.map.translate(0x1000, 0x1000))
            ftruncate(file.fd, 0)
            #expect(p.load(as: UInt64.self) == 0 && EventFD.take(loss.fd), "round \(round)")
        }
        CPlat_store32_relaxed(stop.word, 1)
        pthread_join(thread, nil)
        for h in handles { CPlat_unguard(h) }
        stop.word.deallocate()
        #expect(!EventFD.take(other.fd), "another range's owner was told")
    }

    private final class Body: @unchecked Sendable {
        let run: () -> Void
        init(_ run: @escaping () -> Void) { self.run = run }
    }

    @Test("when every place of the guard is taken a region is refused, not mapped unguarded")
    func placesTaken() throws {
        let fd = file(pages: 1)
        // An address that nothing uses.
        let nowhere = UnsafeMutableRawPointer(bitPattern: 1 << 20)
        var handles: [Int32] = []
        while handles.count <= 32768 {
            let handle = CPlat_guard(nowhere, 4096, -1)
            if handle < 0 { break }
            handles.append(handle)
        }
        #expect(handles.count <= 32768)
        #expect { try GuestMemory().adding(region(0x1000, 0x1000), fd: fd.fd) } throws: {
            "\($0)".contains("32768 regions")
        }
        for h in handles { CPlat_unguard(h) }
        #expect(try GuestMemory().adding(region(0x1000, 0x1000), fd: fd.fd).regions.count == 1)
    }

    @Test("a file of tmpfs is taken; one of another file system is refused before it is asked anything")
    func fileSystems() throws {
        let name = "/dev/shm/ringway-test-\(getpid())"
        let shared = OwnedDescriptor(open(name, O_RDWR | O_CREAT, 0o600))
        try #require(shared.fd >= 0)
        unlink(name)
        ftruncate(shared.fd, 4096)
        #expect(try GuestMemory().adding(region(0x1000, 0x1000), fd: shared.fd).regions.count == 1)
        let other = OwnedDescriptor(open("/proc/self/maps", O_RDONLY))
        #expect { try GuestMemory().adding(region(0x1000, 0x1000), fd: other.fd) } throws: {
            "\($0)".contains("0x1000") && "\($0)".contains("file system: proc")
                && "\($0)".contains("memory-backend-memfd")
        }
        // The same addresses as a region that is there already.
        let memory = try GuestMemory().adding(region(0x1000, 0x1000), fd: shared.fd)
        #expect { try memory.adding(region(0x1000, 0x1000), fd: other.fd) } throws: {
            "\($0)".contains("file system: proc")
        }
    }

    static var hasHugePages: Bool {
        guard let memory = try? HostMemory(bytes: 2 << 20) else { return false }
        return memory.pageSize == 2 << 20
    }

    @Test("a region in huge pages, not aligned to one", .enabled(if: hasHugePages, "no 2 MiB pages are free"))
    func huge() throws {
        let host = try HostMemory(bytes: 4 << 20)
        (host.base + 0x201000).storeBytes(of: 77, as: UInt64.self)
        let memory = try GuestMemory().adding(region(0x1000, 0x1000, offset: 0x201000), fd: host.descriptor.fd)
        #expect(memory.map.translate(0x1000, 8)?.load(as: UInt64.self) == 77)
    }

    @Test("HostMemory is zeroed, shared and given back; without huge pages it says so")
    func hostMemory() throws {
        let name = "ringway-host"
        for wantsHugePages in [false, true] {
            let host = try HostMemory(bytes: 10_000, wantsHugePages: wantsHugePages, name: name)
            #expect(host.size >= 10_000 && host.size % host.pageSize == 0)
            #expect((0..<10_000).allSatisfy { host.base.load(fromByteOffset: $0, as: UInt8.self) == 0 })
            #expect(host.summary.contains(host.pageSize == 4096 ? "4 KiB pages" : "2 MiB pages"))
            if !wantsHugePages { #expect(host.pageSize == 4096) }
            let memory = try GuestMemory().adding(host.region, fd: host.descriptor.fd)
            host.base.storeBytes(of: 9, as: UInt64.self)
            #expect(memory.map.translate(host.region.guestAddress, 8)?.load(as: UInt64.self) == 9)
        }
        #expect(mappings(name) == 0)
    }
}
