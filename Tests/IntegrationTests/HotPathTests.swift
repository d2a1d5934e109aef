import Foundation
import Testing

/// What the release build's burst functions call, from their disassembly.
@Suite struct HotPathTests {
    /// Functions on the path of a packet, by a part of their mangled names, with how many there must be at least.
    static let functions: [(String, Int)] = [
        ("10SplitQueueV11popTransmit", 1), ("10SplitQueueV7popSlow", 1), ("10SplitQueueV8complete", 1),
        ("10SplitQueueV7deliver", 1), ("10SplitQueueV11deliverSlow", 1), ("10SplitQueueV14gatherIndirect", 1),
        ("10SplitQueueV5unpop", 1), ("10SplitQueueV9needsCall", 1), ("10SplitQueueV8armKicks", 1),
        ("10SplitQueueV13suppressKicks", 1),
        ("11PackedQueueV3pop", 1), ("11PackedQueueV7popSlow", 1), ("11PackedQueueV8complete", 1),
        ("11PackedQueueV7deliver", 1), ("11PackedQueueV11deliverSlow", 1), ("11PackedQueueV13chooseTargets", 1),
        ("11PackedQueueV11fillTargets", 1), ("11PackedQueueV14gatherIndirect", 1), ("11PackedQueueV6gather", 1),
        ("11PackedQueueV5unpop", 1), ("11PackedQueueV9needsCall", 1), ("11PackedQueueV8armKicks", 1),
        ("11PackedQueueV13suppressKicks", 1),
        ("10DeviceCoreV12gatherBuffer", 1), ("10DeviceCoreV14writeScattered", 1),
        ("16SplitDriverQueueV3add8readable", 1), ("17PackedDriverQueueV3add8readable", 1),
        ("16SplitDriverQueueV10addSingles", 1), ("17PackedDriverQueueV10addSingles", 1),
        ("16SplitDriverQueueV10reclaimAny", 1), ("17PackedDriverQueueV10reclaimAny", 1),
        ("16SplitDriverQueueV14reclaimInOrder", 1), ("17PackedDriverQueueV14reclaimInOrder", 1),
        ("16SplitDriverQueueV9needsKick", 1), ("17PackedDriverQueueV9needsKick", 1),
        // One specialisation of the loop for each function: drop, crossconnect, macswap, two switches, an embedder's,
        // and whichever it is while packets are captured.
        ("8PollLoopO5round", 7), ("8PollLoopO10visitQuiet", 7), ("8PollLoopO12acceptEvents", 1),
        ("8PollLoopO8keepTime", 1), ("loadAddresses", 1), ("loadLarge", 1), ("9copyLarge", 1), ("10copyPieces", 1),
        ("10PacketSlotV11extendFront", 1), ("10PacketSlotV11settleFront", 1),
        ("9ForwarderO12dispatchSlow", 1), ("9ForwarderO12spreadByPort", 1), ("9ForwarderO6toPort", 1),
        ("11PacketBurstV7verdict", 1), ("11PacketBurstV4copy", 1), ("11PacketBurstV9originate", 1),
        ("9ForwarderO14toDestinations", 1), ("9ForwarderO9spreadOut", 1), ("9ForwarderO6settle", 1),
        ("9ForwarderO5stall", 1), ("8QueueEndO4tell", 1), ("8QueueEndO8giveBack", 1), ("8QueueEndO3arm", 1),
        ("8QueueEndO8popOther", 1), ("8QueueEndO13completeOther", 1), ("8QueueEndO12deliverOther", 1),
        ("8LagStateV7measure", 1),
        ("6XDPEndV3pop", 1), ("6XDPEndV6spread", 1), ("6XDPEndV8complete", 1), ("6XDPEndV7deliver", 1),
        ("6XDPEndV4kick", 1), ("6XDPEndV7reclaim", 1),
        ("9ForwarderO7discard", 1), ("7OffloadO7deliver", 1), ("7OffloadO6screen", 1), ("7OffloadO7resolve", 1),
        ("8NotifierV8makeRoom", 1),
        ("8NotifierV6submit", 1), ("9ForwarderO6accept", 1), ("8MACTableC9learnSlow", 1),
        ("13GuardedSwitchV5flood", 1), ("13GuardedSwitchV12sendMirrored", 1), ("13GuardedSwitchV6refuse", 1),
        ("10SwitchCoreC5learn", 1), ("10SwitchCoreC7inspect", 1), ("10MeterPartsC4more", 1),
        ("10QueueTimesV4took", 1), ("8NotifierV12recordDelays", 1), ("10AutoBudgetV6choose", 1),
        ("10AutoBudgetV13arrivedAsleep", 1),
        ("9ForwarderO12sendCaptured", 1), ("9ForwarderO14settleCaptured", 1), ("9ForwarderO12keepArrivals", 1),
        ("9ForwarderO21acceptCapturedParcels", 1), ("9ForwarderO11noteUnready", 1),
    ]
    static let forbidden = [
        "swift_retain", "swift_release", "swift_allocObject", "swift_slowAlloc", "swift_beginAccess",
        "swift_bridgeObjectRetain", "swift_once",
        "swift_unknownObjectRetain", "swift_dynamicCast", "malloc", "calloc", "realloc", "posix_memalign",
        "pthread_mutex_lock",
    ]

    /// Targets of calls and jumps by function.
    static func calls(_ binary: String) throws -> [String: [String]] {
        // What lies behind a symbol's end belongs to code that has no symbol.
        var sizes: [String: UInt64] = [:]
        for line in try output("/usr/bin/nm", "-S", "--defined-only", binary).split(separator: UInt8(ascii: "\n")) {
            let words = line.split(separator: UInt8(ascii: " ")).map { String(decoding: $0, as: UTF8.self) }
            if words.count == 4 { sizes[words[3]] = UInt64(words[1], radix: 16) }
        }
        var calls: [String: [String]] = [:]
        var (name, end) = ("", UInt64(0))
        for line in try output("/usr/bin/objdump", "-d", "--no-show-raw-insn", binary).split(
            separator: UInt8(ascii: "\n"))
        {
            if line.last == UInt8(ascii: ":"), let at = line.firstIndex(of: UInt8(ascii: "<")) {
                name = String(decoding: line[line.index(after: at)...].dropLast(2), as: UTF8.self)
                let start =
                    UInt64(String(decoding: line.prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self), radix: 16) ?? 0
                end = start + (sizes[name] ?? UInt64.max / 2)
                calls[name] = []
            } else if !name.isEmpty, let at = line.firstIndex(of: UInt8(ascii: "<")) {
                let text = String(decoding: line, as: UTF8.self)
                let address = UInt64(text.split(separator: ":")[0].trimmingCharacters(in: .whitespaces), radix: 16) ?? 0
                if address < end && (text.contains("call") || text.contains("jmp")) {
                    calls[name]!.append(
                        String(
                            decoding: line[line.index(after: at)...].prefix { $0 != UInt8(ascii: ">") }, as: UTF8.self))
                }
            }
        }
        return calls
    }

    static func output(_ arguments: String...) throws -> Data { try output(arguments) }

    static func output(_ arguments: [String]) throws -> Data {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: arguments[0])
        process.arguments = Array(arguments.dropFirst())
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let data = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw Unexpected("\(arguments): status \(process.terminationStatus)")
        }
        return data
    }

    @Test("burst functions have no reference counting, allocation, exclusivity check or lock")
    func disassembly() throws {
        let calls = try HotPathTests.calls(Ringway.binary)
        for (part, least) in HotPathTests.functions {
            // Witnesses, outlined copies and closures of the embedder's set-up are not on the path.
            let found = calls.filter { $0.key.contains(part) && !$0.key.contains("_vf_") }
            #expect(
                found.count >= least, "\(part): \(found.count) functions, \(least) expected; was it renamed or inlined?"
            )
            for (function, targets) in found {
                for target in targets
                where HotPathTests.forbidden.contains(where: {
                    target == $0 || target.hasPrefix($0 + "@") || target.hasPrefix("\($0)_")
                }) {
                    Issue.record("\(function) calls \(target)")
                }
            }
        }
        // The check itself sees calls: something in the program allocates.
        #expect(calls.values.contains { $0.contains { $0.hasPrefix("swift_allocObject") } })
    }
}
