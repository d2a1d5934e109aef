import ArgumentParser
import Console
import Glibc
import Ringway
import RingwayLab

/// Runs poll threads' rounds in an order that repeats, for tools/instructions.
struct RoundsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rounds",
        abstract: "Run poll threads' rounds by hand, to be counted by tools/instructions.",
        discussion: "Prints a line for each case: its name, a tab, and the packets of the counted rounds.",
        shouldDisplay: false)

    @Option(help: "Counted rounds of each case.") var rounds = 256
    @Flag(help: "Mark each counted round for a trace of memory accesses.") var mark = false
    @Option(help: "Cases whose names contain this.") var only = ""

    func run() throws {
        check("--rounds", rounds, 1...1_000_000)
        for (name, shape) in RoundsCommand.cases where only.isEmpty || name.contains(only) {
            do throws(EngineError) { print("\(name)\t\(try count(shape))") } catch { fail("\(name): \(error)") }
        }
    }

    private func count(_ shape: RoundBench.Shape) throws(EngineError) -> UInt64 {
        let bench = try RoundBench(shape)
        // Until every slot of the rings has been used, and the loop has found its pace; a trace is long enough without.
        for _ in 0..<(mark ? 2 : 2048 / shape.burst) { bench.step() }
        let before = bench.packets
        if mark {
            // The megabyte where the stack is and that below it, then where the marks are.
            let marks = bench.markRounds()
            var local = 0
            let stack = withUnsafeMutablePointer(to: &local) { UInt(bitPattern: $0) }
            print(
                "marks",
                ([stack, stack - (1 << 20)] + marks).map {
                    String($0, radix: 16)
                }.joined(separator: " "))
            flush()
        }
        bench.beginCounting()
        for _ in 0..<rounds { bench.step() }
        bench.endCounting()
        if mark {
            // From here on the marks' memory may be freed, and be somebody else's.
            print("unmarked")
            flush()
        }
        if let complaint = bench.complaint { throw EngineError(complaint) }
        return bench.packets &- before
    }

    static let cases: [(String, RoundBench.Shape)] = {
        let formats: [(String, Bool, Bool)] = [
            ("split", false, false), ("packed", true, false), ("packed-in-order", true, true),
        ]
        let modes: [(String, (Int) -> ForwardingMode, [Int])] = [
            ("drop", { _ in .drop }, [64]), ("generate", { .generate(size: $0) }, [64]),
            ("macswap", { _ in .macswap }, [64, 1518]),
            ("crossconnect", { _ in .crossconnect }, [64, 1518]), ("switch", { _ in .switch }, [64]),
        ]
        var all: [(String, RoundBench.Shape)] = []
        for (mode, make, sizes) in modes {
            for size in sizes {
                for (format, isPacked, isInOrder) in formats {
                    var shape = RoundBench.Shape()
                    (shape.mode, shape.size, shape.isPacked, shape.isInOrder) = (make(size), size, isPacked, isInOrder)
                    all.append(("\(mode) \(format) \(size)", shape))
                }
            }
        }
        // What options of a switch's ports cost.
        for switching in BenchSwitch.allCases {
            for (format, isPacked, isInOrder) in formats where !isInOrder {
                var shape = RoundBench.Shape()
                (shape.mode, shape.switching, shape.isPacked) = (.switch, switching, isPacked)
                all.append(("\(switching.rawValue) \(format) 64", shape))
            }
        }
        // What an embedder's function costs, and what it does to packets.
        for function in BenchFunction.allCases {
            for (format, isPacked, isInOrder) in formats where !isInOrder {
                var shape = RoundBench.Shape()
                (shape.mode, shape.function, shape.isPacked) = (.macswap, function, isPacked)
                all.append(("\(function.rawValue) \(format) 64", shape))
            }
        }
        // A packet alone, as on a quiet ring: what its latency is made of.
        for (format, isPacked, isInOrder) in formats {
            var shape = RoundBench.Shape()
            (shape.mode, shape.isPacked, shape.isInOrder, shape.burst) = (.macswap, isPacked, isInOrder, 1)
            all.append(("macswap \(format) 64 burst 1", shape))
        }
        for (format, isPacked, isInOrder) in formats {
            let shapes: [(String, Int, Int, BusyloopBudget)] = [
                ("1000-idle poll", 1, 1000, .poll), ("auto", 1, 0, .auto), ("1000-idle auto", 1, 1000, .auto),
                ("2-threads", 2, 0, .poll),
            ]
            for (what, threads, idle, budget) in shapes {
                var shape = RoundBench.Shape()
                (shape.isPacked, shape.isInOrder, shape.threads, shape.idlePairs, shape.busyloop) = (
                    isPacked, isInOrder, threads, idle, budget
                )
                all.append(("drop \(format) 64 \(what)", shape))
            }
        }
        var guarded = RoundBench.Shape()
        (guarded.mode, guarded.switching, guarded.threads) = (.switch, .guarded, 2)
        all.append(("\(BenchSwitch.guarded.rawValue) split 64 2-threads", guarded))
        // Each packet's way is on one thread, and then (for contrast) from one thread to the other.
        for (mode, make, _) in modes
        where mode == "macswap" || mode == "crossconnect" || mode == "switch" || mode == "generate" {
            for crosses in [false, true] where !crosses || mode == "crossconnect" {
                var shape = RoundBench.Shape()
                (shape.mode, shape.threads, shape.crossesThreads) = (make(64), 2, crosses)
                all.append(("\(mode) split 64 2-threads\(crosses ? " crossing" : "")", shape))
            }
        }
        return all
    }()
}
