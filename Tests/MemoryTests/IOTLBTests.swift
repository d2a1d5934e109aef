import Memory
import Testing
import Virtio

@Suite struct IOTLBTests {
    private let fd: OwnedDescriptor
    private let memory: GuestMemory
    private let user: UInt64 = 0x7000_0000_0000

    init() throws {
        fd = file(pages: 16)
        memory = try GuestMemory().adding(
            RegionDescription(guestAddress: 0, size: 0x10000, userAddress: user, offset: 0), fd: fd.fd)
    }

    private func entry(_ address: UInt64, _ size: UInt64, at offset: UInt64, _ access: IOTLBAccess = [.read, .write])
        -> IOTLBEntry
    {
        IOTLBEntry(address: address, size: size, userAddress: user + offset, access: access)
    }

    private func word(_ answer: IOTLB.Answer) -> UInt64? {
        if case .host(let p) = answer { return p.load(as: UInt64.self) } else { return nil }
    }

    @Test("neighbours in both spaces become one; a later entry takes the place of an earlier one")
    func adding() throws {
        var tlb = try IOTLB().adding(entry(0x2000, 0x1000, at: 0x5000), memory)
        tlb = try tlb.adding(entry(0x4000, 0x1000, at: 0x7000), memory)
        #expect(tlb.find(0x2000, 0x3000, .read) == .missing(0x3000))
        tlb = try tlb.adding(entry(0x3000, 0x1000, at: 0x6000), memory)
        #expect(tlb.entries == [entry(0x2000, 0x3000, at: 0x5000)])
        #expect(word(tlb.find(0x2ff8, 0x1010, .write)) == 0x5ff8)
        tlb = try tlb.adding(entry(0x3000, 0x1000, at: 0), memory)
        #expect(tlb.entries.count == 3)
        #expect(word(tlb.find(0x3008, 8, .read)) == 8)
        #expect(word(tlb.find(0x4008, 8, .read)) == 0x7008)
        #expect(tlb.find(0x2000, 0x2000, .read) == .pieces)
    }

    @Test("what may be read and what may be written are told apart")
    func access() throws {
        var tlb = try IOTLB().adding(entry(0x1000, 0x1000, at: 0, .read), memory)
        tlb = try tlb.adding(entry(0x2000, 0x1000, at: 0x1000, .write), memory)
        #expect(word(tlb.find(0x1000, 8, .read)) == 0)
        #expect(tlb.find(0x1000, 8, .write) == .missing(0x1000))
        #expect(tlb.find(0x2000, 8, .read) == .missing(0x2000))
        #expect(tlb.find(0x1000, 8, [.read, .write]) == .missing(0x1000))
        #expect(tlb.map.translate(0x2000, 8) == nil)
        #expect(tlb.map.writable.translate(0x2000, 8)?.load(as: UInt64.self) == 0x1000)
        #expect(tlb.map.writable.readable.translate(0x1000, 8) != nil)
    }

    @Test("what is taken away leaves what lies before and behind it; size 0 and too many bytes mean to the end")
    func removing() throws {
        let tlb = try IOTLB().adding(entry(0x2000, 0x4000, at: 0x1000), memory)
        let rest = try #require(tlb.removing(0x3000, 0x1000, memory))
        #expect(rest.entries == [entry(0x2000, 0x1000, at: 0x1000), entry(0x4000, 0x2000, at: 0x3000)])
        #expect(rest.removing(0x3000, 0x1000, memory) == nil)
        #expect(tlb.removing(0, 0, memory)?.entries == [])
        #expect(tlb.removing(1, .max, memory)?.entries == [])
        #expect(tlb.removing(0x6000, 0, memory) == nil)
    }

    @Test("what cannot be is refused by name")
    func refused() {
        for (bad, text) in [
            (entry(0x1000, 0, at: 0), "size 0x0 is empty"), (entry(.max, 2, at: 0), "goes beyond 64 bits"),
            (entry(0x1000, 8, at: 0, []), "access 0"), (entry(0x1000, 8, at: 0, IOTLBAccess(rawValue: 4)), "access 4"),
            (entry(0x1000, 0x10001, at: 0), "outside guest memory"), (entry(0x1000, 1, at: 0x10000), "outside guest"),
        ] {
            let error = #expect(throws: MemoryError.self) { try IOTLB().adding(bad, memory) }
            #expect(error?.description.contains(text) == true, "\(error?.description ?? "none")")
        }
    }

    @Test("however many entries come, only so many are kept")
    func bounded() throws {
        var tlb = IOTLB()
        for i in 0..<UInt64(IOTLB.most + 100) { tlb = try tlb.adding(entry(i << 13, 0x1000, at: 0), memory) }
        #expect(tlb.entries.count == IOTLB.most)
        #expect(word(tlb.find(UInt64(IOTLB.most + 99) << 13, 8, .read)) == 0)
    }

    @Test("entries outside memory that has changed are forgotten")
    func moved() throws {
        let tlb = try IOTLB().adding(entry(0x2000, 0x1000, at: 0x5000), memory)
        #expect(tlb.moved(to: GuestMemory()).entries == [])
        #expect(word(tlb.moved(to: memory).find(0x2000, 8, .read)) == 0x5000)
    }
}
