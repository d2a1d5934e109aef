import CPlatform
import Console
import Glibc
import Ringway
import RingwayLab

/// How long a cache line takes between two CPUs and back: every figure here changes with it.
enum PingPong {
    struct Job: BitwiseCopyable {
        var word: UnsafeMutablePointer<UInt32>
        var cpu: Int
        /// 0: begins; 1: answers.
        var first: UInt32
        var cycles = 0.0
    }
    private static let rounds: UInt32 = 20_000

    /// Cycles a round trip, between threads of our own.
    static func cycles(_ a: Int, _ b: Int) -> Double {
        let word = OwnedMemory<UInt32>(count: 1, repeating: 0)
        let jobs = OwnedMemory([Job(word: word.start, cpu: a, first: 0), Job(word: word.start, cpu: b, first: 1)])
        var threads = [pthread_t(), pthread_t()]
        for i in 0..<2 {
            pthread_create(
                &threads[i], nil,
                { raw in
                    PingPong.play(&raw!.assumingMemoryBound(to: Job.self).pointee)
                    return nil
                }, jobs.start + i)
        }
        for t in threads { pthread_join(t, nil) }
        return jobs[0].cycles
    }

    private static func play(_ job: inout Job) {
        _ = CPlat_pin_to_cpu(Int32(job.cpu))
        let word = job.word
        var expected = job.first
        var start: UInt64 = 0
        for round in 0..<rounds {
            // The first rounds wait for the other thread to arrive.
            if round == 100 { start = CPlat_cycles() }
            while CPlat_load32_acquire(word) != expected {}
            CPlat_store32_release(word, expected &+ 1)
            expected &+= 2
        }
        job.cycles = Double(CPlat_cycles() &- start) / Double(rounds - 100)
    }
}
