import Foundation
import Ringway
import RingwayLab
import Testing

/// Capture files, and functions tried on them.
@Suite struct ReplayTests {
    /// A folder that goes with the test.
    final class Folder {
        let path = NSTemporaryDirectory() + "ringway-replay-\(UUID().uuidString.prefix(8))"
        init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false) }
        deinit { try? FileManager.default.removeItem(atPath: path) }

        func write(_ bytes: [UInt8], _ name: String = "in.pcap") throws -> String {
            try Data(bytes).write(to: URL(fileURLWithPath: "\(path)/\(name)"))
            return "\(path)/\(name)"
        }
    }

    static func words(_ values: [UInt32], isBig: Bool) -> [UInt8] {
        values.flatMap { value in withUnsafeBytes(of: isBig ? value.bigEndian : value.littleEndian) { Array($0) } }
    }

    /// The header of a file, byte by byte as the format says.
    static func header(isBig: Bool = false, isNano: Bool = false, version: [UInt8]? = nil, link: UInt32 = 1) -> [UInt8]
    {
        words([isNano ? 0xa1b2_3c4d : 0xa1b2_c3d4], isBig: isBig)
            + (version ?? (isBig ? [0, 2, 0, 4] : [2, 0, 4, 0])) + words([0, 0, 65535, link], isBig: isBig)
    }

    static func record(_ frame: [UInt8], fraction: UInt32, original: UInt32? = nil, isBig: Bool = false) -> [UInt8] {
        words([1000, fraction, UInt32(frame.count), original ?? UInt32(frame.count)], isBig: isBig) + frame
    }

    static func frames(_ path: String) throws -> [CapturedFrame] {
        let reader = try CaptureReader(path)
        var frames: [CapturedFrame] = []
        while let frame = try reader.next() { frames.append(frame) }
        return frames
    }

    @Test("both byte orders, both resolutions", arguments: [false, true], [false, true])
    func reads(_ isBig: Bool, _ isNano: Bool) throws {
        let folder = try Folder()
        let frame = FunctionHarnessTests.frame(60)
        var file = ReplayTests.header(isBig: isBig, isNano: isNano)
        file += ReplayTests.record(frame, fraction: 7, isBig: isBig)
        file += ReplayTests.record([], fraction: 999_999, original: 1514, isBig: isBig)
        let path = try folder.write(file)
        let unit: UInt64 = isNano ? 1 : 1000
        let expected = [
            CapturedFrame(nanoseconds: 1_000_000_000_000 + 7 * unit, bytes: frame),
            CapturedFrame(nanoseconds: 1_000_000_000_000 + 999_999 * unit, bytes: [], originalLength: 1514),
        ]
        #expect(try ReplayTests.frames(path) == expected)
        // And written again, they are the same.
        let writer = try CaptureWriter("\(folder.path)/out.pcap", isNanoseconds: isNano)
        for frame in expected { try writer.add(frame) }
        try writer.close()
        #expect(throws: CaptureError.self) { try writer.add(expected[0]) }
        #expect(try ReplayTests.frames("\(folder.path)/out.pcap") == expected)
        if !isBig {
            var written = [UInt8](try Data(contentsOf: URL(fileURLWithPath: "\(folder.path)/out.pcap")))
            // The longest frame that there may be is the writer's own affair.
            written.replaceSubrange(16..<20, with: file[16..<20])
            #expect(written == file)
        }
    }

    static let hostile: [(bytes: [UInt8], text: String)] = [
        ([], "no pcap file: 0 bytes"),
        ([1, 2, 3, 4] + [UInt8](repeating: 0, count: 20), "no pcap file: it begins with other bytes"),
        (Array(header()[..<23]), "no pcap file: 23 bytes, its header has 24"),
        ([0x0a, 0x0d, 0x0d, 0x0a] + [UInt8](repeating: 0, count: 20), "a pcapng file"),
        (header(version: [3, 0, 0, 0]), "version 3 of pcap; 2 is known"),
        (header(link: 276), "link type 276; 1 (Ethernet without CRC) is possible"),
        (header() + [1, 2, 3], "frame 1 at byte 24: the file ends after 3 of 16 bytes of its header"),
        (
            header() + record([1, 2, 3], fraction: 0) + record([1, 2, 3], fraction: 0).dropLast(),
            "frame 2 at byte 43: 3 bytes, of which the file has 2"
        ),
        (header() + words([0, 0, 262_145, 0], isBig: false), "frame 1 at byte 24: 262145 bytes; at most 262144"),
        (header() + words([0, 0, .max, .max], isBig: false), "frame 1 at byte 24: 4294967295 bytes; at most 262144"),
        (header() + record([], fraction: 1_000_000), "frame 1 at byte 24: 1000000 microseconds are more than a second"),
    ]

    @Test("what is no capture file is refused in a line that says where", arguments: hostile.indices)
    func refuses(_ i: Int) throws {
        let folder = try Folder()
        let path = try folder.write(ReplayTests.hostile[i].bytes)
        let error = #expect(throws: CaptureError.self) { try ReplayTests.frames(path) }
        #expect(error?.description.hasPrefix("\(path): \(ReplayTests.hostile[i].text)") == true, "\(error!)")
        #expect(error?.description.contains("\n") == false)
    }

    @Test("files that are not there, a folder, a full disk")
    func unreadable() throws {
        let folder = try Folder()
        #expect(throws: CaptureError.self) { try CaptureReader("\(folder.path)/none") }
        #expect(throws: CaptureError.self) { try CaptureReader(folder.path) }
        #expect(throws: CaptureError.self) { try CaptureWriter("\(folder.path)/none/out", isNanoseconds: false) }
        #expect(throws: CaptureError.self) {
            let writer = try CaptureWriter("/dev/full", isNanoseconds: false)
            try writer.add(CapturedFrame(nanoseconds: 0, bytes: [1]))
            try writer.close()
        }
    }

    /// Files of random bytes behind a good header: an error or frames, no trap.
    @Test("random bytes behind a header")
    func random() throws {
        let folder = try Folder()
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            var file = ReplayTests.header(isBig: .random(), isNano: .random())
            for _ in 0..<Int.random(in: 0..<8) {
                let words = (0..<4).map { _ in UInt32.random(in: 0...(.random() ? 40 : .max), using: &generator) }
                file += ReplayTests.words(words, isBig: .random())
                file += [UInt8](repeating: 0x81, count: .random(in: 0..<60))
            }
            let path = try folder.write(file)
            for function in [ReplayFunction.macswap, .vlanPush(5), .vlanPop] {
                var replay = Replay(ports: 3)
                do throws(CaptureError) {
                    try function.run(&replay, from: try CaptureReader(path), port: 2, to: nil)
                } catch { #expect(error.description.contains("frame ")) }
                let sent = replay.ports.map(\.packets)
                let dropped = replay.drops.values.reduce(0) { $0 + $1.packets }
                let expected = function == .macswap ? [0, 0, replay.read.packets - dropped] : [sent[0], sent[0], 0]
                #expect(sent == expected && max(sent[0], sent[2]) + dropped == replay.read.packets)
            }
        }
    }

    @Test("functions by name, and what became of each frame")
    func functions() throws {
        let folder = try Folder()
        let whole = (0..<130).map { FunctionHarnessTests.frame(60 + $0) }
        var file = ReplayTests.header()
        for (i, frame) in whole.enumerated() { file += ReplayTests.record(frame, fraction: UInt32(i)) }
        file += ReplayTests.record([1, 2, 3], fraction: 500)
        file += ReplayTests.record(FunctionHarnessTests.frame(64), fraction: 501, original: 1000)
        let path = try folder.write(file)
        let out = "\(folder.path)/out.pcap"
        func run(_ name: String, _ input: String) throws -> (Replay, [CapturedFrame]) {
            var replay = Replay(ports: 3)
            let writer = try CaptureWriter(out, isNanoseconds: false)
            try ReplayFunction(name)!.run(&replay, from: try CaptureReader(input), port: 1, to: writer)
            try writer.close()
            return (replay, try ReplayTests.frames(out))
        }
        let bytes = whole.reduce(64) { $0 + $1.count }
        let all = Replay.Count(packets: 131, bytes: bytes)
        let short = ["frame length": Replay.Count(packets: 1, bytes: 3)]

        let (swapped, swappedFrames) = try run("macswap", path)
        #expect(swapped.read == .init(packets: 132, bytes: bytes + 3) && swapped.cut == 1 && swapped.drops == short)
        #expect(swapped.ports == [.init(), all, .init()])
        #expect(swappedFrames.count == 131)
        #expect(swappedFrames[5].bytes == Array(whole[5][6..<12] + whole[5][..<6] + whole[5][12...]))
        #expect(swappedFrames[5].nanoseconds == 1_000_000_005_000 && swappedFrames[130].originalLength == 1000)

        let (tagged, taggedFrames) = try run("vlan-push=291", path)
        let longer = Replay.Count(packets: 131, bytes: bytes + 131 * 4)
        #expect(tagged.ports == [longer, .init(), longer])
        #expect(tagged.drops == ["frame length": Replay.Count(packets: 1, bytes: 3)])
        #expect(taggedFrames[129].bytes == Array(whole[129][..<12] + [0x81, 0, 1, 0x23] + whole[129][12...]))
        #expect(taggedFrames[130].originalLength == 1004)

        try FileManager.default.moveItem(atPath: out, toPath: "\(folder.path)/tagged.pcap")
        let (popped, poppedFrames) = try run("vlan-pop", "\(folder.path)/tagged.pcap")
        #expect(popped.ports == [all, .init(), all] && poppedFrames.map(\.bytes).prefix(130) == whole[...])
        let (untagged, none) = try run("vlan-pop", path)
        #expect(untagged.drops["no VLAN tag"] == all && none.isEmpty)
        let (dropped, nothing) = try run("drop", path)
        #expect(dropped.drops == ["verdict": all, "frame length": .init(packets: 1, bytes: 3)] && nothing.isEmpty)
        #expect(
            dropped.table == [
                "     packets       bytes", "         132       \(bytes + 3)  read",
                "1 of them are longer than what the file has of them",
                "           1           3  dropped: frame length",
                "         131       \(bytes)  dropped: verdict",
            ])
    }

    @Test("names that are none")
    func names() {
        for name in ["", "switch", "vlan-push", "vlan-push=", "vlan-push=4096", "vlan-push=-1", "vlan-pop=1"] {
            #expect(ReplayFunction(name) == nil, "\(name)")
        }
        #expect(ReplayFunction("vlan-push=0") == .vlanPush(0) && ReplayFunction("flood") == .flood)
    }

    /// Copies each packet to port 0, counts, and knows the time.
    struct Copies: PacketFunction {
        static let dropCauses = ["early", "late"]
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
            for i in 0..<packets.count {
                packets.copy(i)?.verdict = .port(0)
                packets.drop(i, because: packets.seconds > 1 ? 1 : 0)
            }
            return nil
        }
    }

    @Test("packets that the function made, and its clock, which is the capture's")
    func made() throws {
        let folder = try Folder()
        let frame = FunctionHarnessTests.frame(60)
        var file = ReplayTests.header()
        for _ in 0..<64 { file += ReplayTests.record(frame, fraction: 0) }
        file += ReplayTests.words([.max, 0, 60, 60], isBig: false) + frame
        let path = try folder.write(file)
        var replay = Replay(ports: 1)
        try replay.run(Copies(), from: try CaptureReader(path), port: 0, to: nil)
        let all = Replay.Count(packets: 65, bytes: 3900)
        #expect(replay.made == all && replay.ports == [all])
        #expect(replay.drops == ["early": .init(packets: 64, bytes: 3840), "late": .init(packets: 1, bytes: 60)])
    }
}
