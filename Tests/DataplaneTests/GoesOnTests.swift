import CPlatform
import Ringway
import RingwayLab
import Testing

/// A back-end that was started again finds rings that are in use, and a front-end that does not know how far they
/// were used.
@Suite struct GoesOnTests {
    struct Case: CustomTestStringConvertible, Sendable {
        var isInOrder: Bool
        /// What the front-end says of both rings; nil: where the driver stands.
        var base: UInt32?
        var testDescription: String { "\(isInOrder ? "in order" : "") base \(base.map { "\($0)" } ?? "the driver's")" }
    }

    private static let cases = [
        Case(isInOrder: true, base: 0x8000_8000), Case(isInOrder: true, base: 0x8000), Case(isInOrder: true, base: nil),
        Case(isInOrder: false, base: 0x8000_8000),
    ]

    @Test(
        """
        packed rings, in order and not, whose front-end says the beginning, or where the driver stands, to a back-end \
        that was started again: traffic goes on, both ways, nothing twice and nothing lost
        """, arguments: cases)
    func packed(_ c: Case) throws {
        let lab = try Lab(ports: 1, .macswap, busyloop: .poll)
        let d = try lab.driver(0) {
            $0.isPacked = true
            $0.isInOrder = c.isInOrder
        }
        try #require(d.frontEnd.features.contains(.inOrder) == c.isInOrder)
        let size = 256
        var (first, made) = (0, [size, 0])
        for life in 0..<12 {
            let n = 90 + 37 * life
            try check(d, first, n)
            first += n
            // The driver goes on while nobody serves its rings: what it sends is outstanding.
            for ring in 0..<2 { _ = try d.frontEnd.stopRing(ring) }
            made[0] += n
            made[1] += n
            let waiting = life % 3 * 20
            if waiting > 0 { #expect(d.send(Frame.numbered(waiting, first: first))) }
            made[1] += waiting
            for ring in 0..<2 {
                let at = made[ring] % (2 * size)
                let half = UInt32(at % size) | (at < size ? 0x8000 : 0)
                try start(d, ring, c.base ?? (half | half << 16))
            }
            if waiting > 0 { try expect(d, first, waiting) }
            first += waiting
            made[0] += waiting
        }
    }

    private func check(_ d: EmbeddedDriver, _ first: Int, _ n: Int) throws {
        // No more at once than the receive ring has room for.
        for part in stride(from: 0, to: n, by: 128) {
            let count = min(128, n - part)
            try #require(d.send(Frame.numbered(count, first: first + part)))
            try expect(d, first + part, count)
        }
    }

    private func expect(_ d: EmbeddedDriver, _ first: Int, _ n: Int) throws {
        let got = d.receive(n).map(\.frame)
        try #require(got.count == n, "\(got.count) of \(n) frames came from number \(first) on")
        #expect(got == Frame.numbered(n, first: first, to: Frame.mac(1), from: Frame.mac(2)))
        try #require(d.settle())
    }

    private func start(_ d: EmbeddedDriver, _ ring: Int, _ base: UInt32) throws {
        let setup = ring == 0 ? d.pairs[0].receive.deviceSetup() : d.pairs[0].transmit.deviceSetup()
        func address(_ p: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: p)) }
        try d.frontEnd.startRing(
            ring, size: setup.size, base: base, descriptors: address(setup.descriptors),
            driverArea: address(setup.driverArea), deviceArea: address(setup.deviceArea),
            kick: OwnedDescriptor(CPlat_eventfd(0)), call: OwnedDescriptor(CPlat_eventfd(0)))
    }
}
