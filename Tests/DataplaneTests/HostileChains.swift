import Glibc
import Testing
import Virtio

/// What a hostile driver puts into one of its rings, and what must come of it.
struct HostileChains: Sendable, CustomTestStringConvertible {
    /// What a packet or a queue ends as.
    enum End: Sendable, Equatable {
        /// These frames cross, and no other.
        case crosses([Int])
        /// One packet is dropped for this cause.
        case drops(String)
        /// The queue stops with this defect, after these frames.
        case stops(RingDefect.Kind, after: [Int] = [])
    }

    let testDescription: String
    let end: End
    let features: Features
    let formats: [Bool]
    let write: @Sendable (HostileGuest) -> Void

    private init(
        _ name: String, _ end: End, _ features: Features = [], formats: [Bool] = [false, true],
        _ write: @escaping @Sendable (HostileGuest) -> Void
    ) {
        (testDescription, self.end, self.features, self.formats, self.write) = (name, end, features, formats, write)
    }

    private static let (border, end) = (HostileGuest.border, HostileGuest.end)

    /// Addresses and lengths that no region holds.
    private static let outside: [(UInt64, UInt32)] = [
        (0, 64), (HostileGuest.guest - 1, 64), (end - 63, 64), (end, 1), (UInt64.max - 10, 64), (UInt64.max, 1),
        (HostileGuest.guest, UInt32.max), (HostileGuest.far + 1 << 30 - 1, 2), (UInt64.max - 0xffff_fffe, UInt32.max),
    ]

    private static func hex(_ v: UInt64) -> String { "0x" + String(v, radix: 16) }

    // MARK: Transmit rings

    static let transmit: [HostileChains] = addresses + shapes + indirect + rings + headers

    private static let addresses: [HostileChains] =
        outside.map { address, length in
            HostileChains("\(hex(address))+\(hex(UInt64(length)))", .stops(.address)) { g in
                g.chain(1, [(address, max(length, 64))])
            }
        } + [
            HostileChains("a buffer over two regions that are neighbours", .crosses([5])) { g in
                g.chain(1, [(border - 100, g.write(5, at: border - 100))])
            },
            HostileChains("one that begins in the last region and ends behind it", .stops(.address)) { g in
                g.chain(1, [(border + 0xff00, 0x101)])
            },
            HostileChains("the fortieth of a burst", .stops(.address, after: Array(0..<40))) { g in
                for i in 0..<64 {
                    let length = g.write(i, at: g.buffer(i))
                    g.set(1, i, i == 40 ? 0x1000 : g.buffer(i), length, id: UInt16(i))
                }
                g.show(1, (0..<64).map { UInt16($0) })
            },
        ]

    private static let shapes: [HostileChains] =
        [
            HostileChains("a device-writable buffer", .stops(.writableInTransmit)) {
                $0.chain(1, [($0.buffer(0), 100)], 2)
            },
            HostileChains("4 GiB and more", .drops("frame length")) { g in
                g.chain(1, (0..<5).map { _ in (HostileGuest.far, 1 << 30) })
            },
            HostileChains("the header alone", .drops("frame length")) { $0.chain(1, [($0.buffer(0), 12)]) },
            HostileChains("thirteen bytes behind the header", .drops("frame length")) {
                $0.chain(1, [($0.buffer(0), 25)])
            },
            HostileChains("longer than a frame can be", .drops("frame length")) {
                $0.chain(1, [($0.buffer(0), 70_000)])
            },
            HostileChains("the header over twelve descriptors", .crosses([5])) { g in
                let length = g.write(5, at: g.buffer(0))
                g.chain(1, (0..<12).map { (g.buffer(0) + $0, 1) } + [(g.buffer(0) + 12, length - 12)])
            },
            HostileChains("an empty descriptor first", .crosses([5])) { g in
                g.chain(1, [(0, 0), (g.buffer(0), g.write(5, at: g.buffer(0)))])
            },
            HostileChains("empty descriptors between all parts", .crosses([5])) { g in
                let length = g.write(5, at: g.buffer(0))
                let parts: [(UInt64, UInt32)] = [
                    (0, 0), (g.buffer(0), 7), (1, 0), (g.buffer(0) + 7, length - 7), (2, 0),
                ]
                g.chain(1, parts)
            },
            HostileChains("nothing but empty descriptors", .stops(.chainTooShort)) { g in
                g.chain(1, (0..<20).map { _ in (0, 0) })
            },
        ]
        + [0, 1, 11].map { length in
            HostileChains("\(length) bytes", .stops(.chainTooShort)) { $0.chain(1, [($0.buffer(0), length)]) }
        }

    private static let indirect: [HostileChains] =
        ([
            ("not negotiated", .indirectNotNegotiated, 0, 32, 0), ("of length 0", .indirectLength, 0, 0, 0),
            ("of 24 bytes", .indirectLength, 0, 24, 0), ("of 4 GiB", .indirectAddress, 0, 0xffff_fff0, 0),
            ("outside memory", .indirectAddress, 0x1000, 32, 0),
            ("at the end of addresses", .indirectAddress, UInt64.max - 15, 32, 0),
            ("over two regions", .indirectAddress, border - 16, 32, 0), ("with NEXT", .indirectWithNext, 0, 32, 1),
        ] as [(String, RingDefect.Kind, UInt64, UInt32, UInt16)]).map { name, kind, address, length, flags in
            HostileChains(
                "an indirect table \(name)", .stops(kind), kind == .indirectNotNegotiated ? [] : .indirectDesc
            ) { g in
                g.set(1, 0, address == 0 ? g.table(1) : address, length, 4 | flags, next: 1)
                if flags != 0 { g.set(1, 1, g.buffer(0), 100) }
                g.show(1, [0])
            }
        } + [
            HostileChains("an indirect table in an indirect table", .stops(.indirectNested), .indirectDesc) { g in
                g.set(1, 0, g.table(1), 16, 4)
                g.set(1, 0, g.table(1), 16, 4, inTable: true)
                g.show(1, [0])
            },
            HostileChains("a table whose descriptor lies outside memory", .stops(.address), .indirectDesc) { g in
                g.set(1, 0, g.table(1), 16, 4)
                g.set(1, 0, 0x1000, 64, inTable: true)
                g.show(1, [0])
            },
            HostileChains(
                "a table of 2000 empty descriptors", .stops(.chainTooLong), .indirectDesc, formats: [true]
            ) { g in
                g.set(1, 0, HostileGuest.far, 32_000, 4)
                g.show(1, [0])
            },
            HostileChains("a loop in a table", .stops(.chainTooLong), .indirectDesc, formats: [false]) { g in
                g.set(1, 0, g.table(1), 32, 4)
                for i in 0..<2 { g.set(1, i, g.buffer(i), 64, 1, next: UInt16(1 - i), inTable: true) }
                g.show(1, [0])
            },
            HostileChains("next beyond a table", .stops(.descriptorIndex), .indirectDesc, formats: [false]) { g in
                g.set(1, 0, g.table(1), 32, 4)
                g.set(1, 0, g.buffer(0), 64, 1, next: 2, inTable: true)
                g.show(1, [0])
            },
        ]

    private static let rings: [HostileChains] = [
        HostileChains("a head beyond the queue", .stops(.descriptorIndex), formats: [false]) { $0.show(1, [128]) },
        HostileChains("head 65535", .stops(.descriptorIndex), formats: [false]) { $0.show(1, [65535]) },
        HostileChains("next beyond the queue", .stops(.descriptorIndex), formats: [false]) { g in
            g.set(1, 0, g.buffer(0), 64, 1, next: 128)
            g.show(1, [0])
        },
        HostileChains("a loop", .stops(.chainTooLong), formats: [false]) { g in
            for i in 0..<2 { g.set(1, i, g.buffer(i), 64, 1, next: UInt16(1 - i)) }
            g.show(1, [0])
        },
        HostileChains("a loop of empty descriptors", .stops(.chainTooLong), formats: [false]) { g in
            for i in 0..<2 { g.set(1, i, 0, 0, 1, next: UInt16(1 - i)) }
            g.show(1, [0])
        },
        HostileChains("one head in every place", .crosses([Int](repeating: 5, count: 128)), formats: [false]) { g in
            g.set(1, 0, g.buffer(0), g.write(5, at: g.buffer(0)))
            g.show(1, [UInt16](repeating: 0, count: 128))
        },
        HostileChains("an index 129 ahead", .stops(.availableIndexJump), formats: [false]) {
            $0.show(1, [], index: 129)
        },
        HostileChains("an index 40000 ahead", .stops(.availableIndexJump), formats: [false]) {
            $0.show(1, [], index: 40_000)
        },
        HostileChains("a chain whose last part never comes", .stops(.chainIncomplete), formats: [true]) { g in
            g.set(1, 0, g.buffer(0), 64, 1)
        },
        HostileChains("a chain as long as the ring, with NEXT at its end", .stops(.chainTooLong), formats: [true]) {
            g in
            // The ring's first descriptor is also that of the second lap: AVAIL clear, USED set, as well as it can be.
            for i in 0..<128 { g.set(1, i, g.buffer(i), 64, 1) }
        },
        HostileChains("one buffer id for all, beyond the queue", .crosses(Array(0..<64)), formats: [true]) { g in
            for i in 0..<64 { g.set(1, i, g.buffer(i), g.write(i, at: g.buffer(i)), id: 65535) }
        },
        HostileChains("wrap bits of no lap", .crosses([]), formats: [true]) { g in
            // AVAIL and USED both set: used in the first lap, so that nothing is available.
            g.set(1, 0, g.buffer(0), g.write(5, at: g.buffer(0)), 0x8000)
            g.set(1, 1, g.buffer(0), 100, 0x8000)
        },
        HostileChains("events of ones", .crosses([5]), .eventIdx) { g in
            g.disturbEvents(1, 0xffff)
            g.chain(1, [(g.buffer(0), g.write(5, at: g.buffer(0)))])
        },
        HostileChains("an event beyond the ring", .crosses([5]), .eventIdx) { g in
            g.disturbEvents(1, 0x2402)
            g.chain(1, [(g.buffer(0), g.write(5, at: g.buffer(0)))])
        },
    ]

    private static let headers: [HostileChains] =
        [
            ("an unknown gso_type", Frame.header(flags: 1, gso: 2, hdrLen: 54, size: 100, start: 34, offset: 16)),
            ("gso_type 0xff", Frame.header(flags: 1, gso: 0xff, hdrLen: 54, size: 100, start: 34, offset: 16)),
            ("gso_size 0", Frame.header(flags: 1, gso: 1, hdrLen: 54, size: 0, start: 34, offset: 16)),
            ("csum_start beyond the packet", Frame.header(flags: 1, start: 5000, offset: 0)),
            ("csum_offset beyond the packet", Frame.header(flags: 1, start: 34, offset: 0xffff)),
            ("both that wrap together", Frame.header(flags: 1, start: 0xffff, offset: 0x8000)),
            ("segmentation without a checksum", Frame.header(gso: 1, hdrLen: 54, size: 100)),
            ("a tunnel that was not negotiated", Frame.header(flags: 1, gso: 0x21, hdrLen: 54, size: 100, start: 34)),
            ("more segments than there can be", Frame.header(flags: 1, gso: 1, hdrLen: 54, size: 1, start: 14)),
            // No IP header behind it.
            ("hdr_len beyond the packet", Frame.header(flags: 1, gso: 1, hdrLen: 60_000, size: 100, start: 34)),
        ].map { name, header in
            HostileChains(name, .drops("offload fields")) { g in
                g.chain(1, [(g.buffer(0), g.write(5, at: g.buffer(0), header: header))])
            }
        } + [
            HostileChains("flags that mean nothing to a device, and num_buffers", .crosses([5])) { g in
                let header: [UInt8] = [0xfe, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
                g.chain(1, [(g.buffer(0), g.write(5, at: g.buffer(0), header: header))])
            }
        ]

    // MARK: Receive rings: frame 5 is delivered into them

    static let receive: [HostileChains] = receiveAddresses + receiveShapes + receiveRings

    private static let tooSmall = End.drops("longer than receiver's buffers")
    private static let merges: Features = [.mrgRxbuf, .indirectDesc]

    private static let receiveAddresses: [HostileChains] =
        outside.map { address, length in
            HostileChains("\(hex(address))+\(hex(UInt64(length)))", .stops(.address)) { g in
                g.chain(0, [(address, max(length, 2048))], 2)
            }
        } + [
            HostileChains("a buffer over two regions that are neighbours", .crosses([5])) { g in
                g.chain(0, [(border - 100, 2048)], 2)
            },
            HostileChains("one that begins in the last region and ends behind it", .stops(.address)) { g in
                g.chain(0, [(border + 0xf800, 0x801)], 2)
            },
        ]

    private static let receiveShapes: [HostileChains] = [
        HostileChains("a device-readable buffer", .stops(.readableInReceive)) { $0.chain(0, [($0.buffer(0), 2048)]) },
        HostileChains("one byte", tooSmall) { $0.chain(0, [($0.buffer(0), 1)], 2) },
        HostileChains("the header alone", tooSmall) { $0.chain(0, [($0.buffer(0), 12)], 2) },
        HostileChains("less than the header", tooSmall) { $0.chain(0, [($0.buffer(0), 11)], 2) },
        HostileChains("an empty buffer", tooSmall) { $0.chain(0, [($0.buffer(0), 0)], 2) },
        HostileChains("4 GiB and more", .stops(.address)) { g in
            g.chain(0, (0..<5).map { _ in (HostileGuest.far, 1 << 30) } + [(0, 1)], 2)
        },
        HostileChains("128 buffers of one byte", tooSmall, merges) { g in
            for i in 0..<128 { g.set(0, i, g.buffer(i), 1, 2, id: UInt16(i)) }
            g.show(0, (0..<128).map { UInt16($0) })
        },
        HostileChains("128 empty buffers", tooSmall, merges) { g in
            for i in 0..<128 { g.set(0, i, g.buffer(i), 0, 2, id: UInt16(i)) }
            g.show(0, (0..<128).map { UInt16($0) })
        },
        HostileChains("two buffers of one byte, and no more", .drops("receiver full"), merges) { g in
            for i in 0..<2 { g.set(0, i, g.buffer(i), 1, 2, id: UInt16(i)) }
            g.show(0, [0, 1])
        },
        HostileChains("a thousand empty ones in a table", .drops("receiver full"), merges, formats: [true]) { g in
            g.set(0, 0, g.table(0), 16 * 1000, 4)
            for i in 0..<1000 { g.set(0, i, g.buffer(0), 0, 2, inTable: true) }
        },
        HostileChains("a loop of empty ones in a table", .stops(.chainTooLong), merges, formats: [false]) { g in
            g.set(0, 0, g.table(0), 16 * 1000, 4)
            for i in 0..<1000 { g.set(0, i, 0, 0, 3, next: UInt16((i + 1) % 1000), inTable: true) }
            g.show(0, [0])
        },
        HostileChains("a frame over three hundred of one byte in a table", .crosses([5]), merges) { g in
            g.set(0, 0, g.table(0), 16 * 300, 4)
            for i in 0..<300 {
                let flags: UInt16 = g.isPacked || i == 299 ? 2 : 3
                g.set(0, i, border - 100 + UInt64(i), 1, flags, next: UInt16(i + 1), inTable: true)
            }
            g.show(0, [0])
        },
    ]

    private static let receiveRings: [HostileChains] =
        ([
            ("not negotiated", .indirectNotNegotiated, 0, 32, 0), ("of length 0", .indirectLength, 0, 0, 0),
            ("of 24 bytes", .indirectLength, 0, 24, 0), ("outside memory", .indirectAddress, 0x1000, 32, 0),
            ("over two regions", .indirectAddress, border - 16, 32, 0), ("with NEXT", .indirectWithNext, 0, 32, 1),
        ] as [(String, RingDefect.Kind, UInt64, UInt32, UInt16)]).map { name, kind, address, length, flags in
            HostileChains(
                "an indirect table \(name)", .stops(kind), kind == .indirectNotNegotiated ? [] : .indirectDesc
            ) { g in
                g.set(0, 0, address == 0 ? g.table(0) : address, length, 4 | flags, next: 1)
                if flags != 0 { g.set(0, 1, g.buffer(0), 100, 2) }
                g.show(0, [0])
            }
        } + [
            HostileChains("a head beyond the queue", .stops(.descriptorIndex), formats: [false]) { $0.show(0, [128]) },
            HostileChains("next beyond the queue", .stops(.descriptorIndex), formats: [false]) { g in
                g.set(0, 0, g.buffer(0), 64, 3, next: 128)
                g.show(0, [0])
            },
            HostileChains("a loop of one byte each", .stops(.chainTooLong), formats: [false]) { g in
                for i in 0..<2 { g.set(0, i, g.buffer(i), 1, 3, next: UInt16(1 - i)) }
                g.show(0, [0])
            },
            HostileChains("an index 129 ahead", .stops(.availableIndexJump), formats: [false]) {
                $0.show(0, [], index: 129)
            },
            HostileChains("a chain whose last part never comes", .stops(.chainIncomplete), formats: [true]) { g in
                g.set(0, 0, g.buffer(0), 64, 3)
            },
        ]
}
