import Control
import Glibc
import Synchronization
import Testing

/// The queue as poll threads use it: they look at its flag, and sleep rarely or never.
@Suite struct WorkQueueTests {
    private final class Polling {
        let queue = WorkQueue()
        let isEnding = Atomic(false)

        func start() throws -> NamedThread {
            queue.open()
            return try NamedThread("polling") {
                self.queue.adopt()
                while true {
                    if self.queue.hasWork.load(ordering: .relaxed) {
                        self.queue.serve()
                        if self.isEnding.load(ordering: .relaxed) { break }
                    } else {
                        sched_yield()
                    }
                }
                self.queue.close()
            }
        }
    }

    @Test("the flag tells of all work: none waits for work that comes later")
    func flag() throws {
        let polling = Polling()
        let thread = try polling.start()
        let plain = Plain()
        let posters = try onThreads { poster in
            for number in 0..<1000 {
                let ticket = polling.queue.post { plain.touch(poster: poster, number: number) }
                if number % 3 == 0 { polling.queue.wait(for: ticket) }
            }
        }
        for poster in posters { poster.join() }
        polling.queue.run({ polling.isEnding.store(true, ordering: .relaxed) }, wake: {})
        thread.join()
        #expect(plain.count == 8000 && plain.overlaps == 0 && plain.disorders == 0)
        #expect(polling.queue.posted == 8001)
        let hasWork = polling.queue.hasWork.load(ordering: .relaxed)
        #expect(!hasWork)
    }

    @Test("tickets of work that comes around the end are answered, and the work runs once")
    func end() throws {
        for _ in 0..<100 {
            let polling = Polling()
            let thread = try polling.start()
            let plain = Plain()
            let posters = try onThreads { poster in
                let tickets = (0..<30).map { number in
                    polling.queue.post { plain.touch(poster: poster, number: number) }
                }
                for ticket in tickets { polling.queue.wait(for: ticket) }
            }
            polling.queue.run({ polling.isEnding.store(true, ordering: .relaxed) }, wake: {})
            for poster in posters { poster.join() }
            thread.join()
            #expect(plain.count == 240 && plain.overlaps == 0 && plain.disorders == 0)
        }
    }

    @Test("a closed queue runs one piece at a time, and a piece that posts another one at once")
    func closed() throws {
        let polling = Polling()
        let plain = Plain()
        let posters = try onThreads { _ in
            for _ in 0..<500 {
                polling.queue.run({ plain.touch() }, wake: {})
                _ = polling.queue.post { _ = polling.queue.post { plain.touch() } }
            }
        }
        for poster in posters { poster.join() }
        #expect(plain.count == 8000 && plain.overlaps == 0)
        #expect(polling.queue.posted == 0)
    }

    @Test("a thread that cannot be started leaves its queue's work to who posts it")
    func notStarted() {
        let polling = Polling()
        polling.queue.open()
        let plain = Plain()
        let ticket = polling.queue.post { plain.touch() }
        #expect(plain.count == 0)
        polling.queue.close()
        polling.queue.wait(for: ticket)
        #expect(plain.count == 1)
        polling.queue.run({ plain.touch() }, wake: {})
        #expect(plain.count == 2)
    }
}
