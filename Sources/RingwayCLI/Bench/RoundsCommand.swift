import ArgumentParser
import Ringway

/// Runs poll threads' rounds in an order that repeats, for tools/instructions.
struct RoundsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rounds",
        abstract: "Run poll threads' rounds by hand, to be counted by tools/instructions.",
        discussion: "Prints a line for each case: its name, a tab, and the packets of the counted rounds.",
        shouldDisplay: false)

    @Option(help: "Counted rounds of each case.") var rounds = 256
    @Option(help: "Cases whose names contain this.") var only = ""

    func run() throws {
        for (name, shape) in RoundsCommand.cases where only.isEmpty || name.contains(only) {
            do throws(EngineError) { print("\(name)\t\(try count(shape))") } catch { fail("\(name): \(error)") }
        }
    }

    private func count(_ shape: RoundBench.Shape) throws(EngineError) -> UInt64 {
        let bench = try RoundBench(shape)
        // Until every slot of the rings has been used, and the loop has found its pace.
        for _ in 0..<2048 / shape.burst { bench.step() }
        let before = bench.packets
        bench.beginCounting()
        for _ in 0..<rounds { bench.step() }
        bench.endCounting()
        if let complaint = bench.complaint { throw EngineError(complaint) }
        return bench.packets &- before
    }

    static let cases: [(String, RoundBench.Shape)] = {
        let formats: [(String, Bool, Bool)] = [("split", false, false), ("packed", true, false), ("packed-in-order", true, true)]
        let modes: [(String, (Int) -> ForwardingMode, [Int])] = [
            ("drop", { _ in .drop }, [64]), ("generate", { .generate(size: $0) }, [64]), ("macswap", { _ in .macswap }, [64, 1518]),
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
        return all
    }()
}
