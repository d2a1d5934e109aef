import CPlatform
import Control
import Glibc
import Memory
import Synchronization
import Testing

func giveWay() { sched_yield() }

@Suite struct ControlThreadTests {
    @Test("work of many posters runs once each, one at a time, in each poster's order")
    func order() throws {
        let control = ControlThread()
        try control.start("control") { _ in }
        let plain = Plain()
        let posters = try onThreads { poster in
            for number in 0..<2000 {
                if number % 7 == 0 {
                    control.run { plain.touch(poster: poster, number: number) }
                } else {
                    control.post { plain.touch(poster: poster, number: number) }
                }
            }
        }
        for poster in posters { poster.join() }
        #expect(control.run { plain.count } == 16_000)
        control.stop()
        #expect(plain.overlaps == 0 && plain.disorders == 0)
    }

    @Test("a wake-up between the last look at the queue and the sleep is not lost")
    func wakeUpBeforeSleep() throws {
        let control = ControlThread()
        let asked = Gate()
        let posted = Gate()
        let isFirst = Atomic(true)
        // It has looked for work, and has none, when it calls this.
        try control.start("control") { _ in
            if !isFirst.exchange(false, ordering: .relaxed) { return }
            asked.open()
            posted.wait()
        }
        asked.wait()
        let done = Gate()
        control.post { done.open() }
        posted.open()
        done.wait()
        control.stop()
    }

    @Test("no wake-up is lost in many short sleeps")
    func manySleeps() throws {
        let control = ControlThread()
        try control.start("control") { _ in }
        let plain = Plain()
        let posters = try onThreads { _ in for _ in 0..<1000 { control.run { plain.touch() } } }
        for poster in posters { poster.join() }
        control.stop()
        #expect(plain.count == 8000 && plain.overlaps == 0)
    }

    @Test("a parked thread does nothing until it is released; parked again at once it waits again")
    func parked() throws {
        let control = ControlThread()
        // Nobody is there to wait for.
        control.park()
        control.release()
        let asked = Plain()
        try control.start("control", isParked: true) { _ in asked.touch() }
        #expect(asked.count == 0)
        let plain = Plain()
        for round in 1...1000 {
            if round > 1 { control.park() }
            // Its owner's: nothing else runs.
            let before = asked.count
            control.post { plain.touch() }
            #expect(plain.count == round - 1 && asked.count == before)
            control.release()
            if round % 3 == 0 { #expect(control.run { plain.count } == round) }
            control.park()
            #expect(plain.count == round)
            control.release()
        }
        control.stop()
        #expect(plain.overlaps == 0)
    }

    @Test("what is posted after the stop runs on its poster's thread, one at a time")
    func postAfterStop() throws {
        let control = ControlThread()
        try control.start("control") { _ in }
        control.stop()
        let here = pthread_self()
        #expect(control.run { pthread_self() } == here)
        let plain = Plain()
        let posters = try onThreads { poster in
            for number in 0..<2000 {
                let me = pthread_self()
                var ran = false
                control.post {
                    plain.touch(poster: poster, number: number)
                    ran = pthread_self() == me
                }
                if !ran { fatalError("posted after the stop, and not run by its poster") }
            }
        }
        for poster in posters { poster.join() }
        #expect(plain.count == 16_000 && plain.overlaps == 0 && plain.disorders == 0)
    }

    @Test("work that comes while the thread stops runs once, and never beside other work")
    func postWhileStopping() throws {
        for _ in 0..<100 {
            let control = ControlThread()
            try control.start("control") { _ in }
            let plain = Plain()
            let posters = try onThreads { poster in
                for number in 0..<50 { control.post { plain.touch(poster: poster, number: number) } }
            }
            control.stop()
            for poster in posters { poster.join() }
            #expect(control.run { plain.count } == 400)
            #expect(plain.overlaps == 0 && plain.disorders == 0)
        }
    }

    @Test("a run that waits while the thread stops has its answer")
    func runWhileStopping() throws {
        for _ in 0..<100 {
            let control = ControlThread()
            try control.start("control") { _ in }
            let plain = Plain()
            let sum = Atomic(0)
            let posters = try onThreads { poster in
                for _ in 0..<20 {
                    let answer = control.run { () -> Int in
                        plain.touch()
                        return poster
                    }
                    sum.add(answer, ordering: .relaxed)
                }
            }
            control.stop()
            for poster in posters { poster.join() }
            #expect(sum.load(ordering: .relaxed) == 20 * (0..<8).reduce(0, +))
            #expect(control.run { plain.count } == 160 && plain.overlaps == 0)
        }
    }

    @Test("a run that waits behind the stop itself has its answer")
    func runBehindStop() throws {
        let control = ControlThread()
        try control.start("control") { _ in }
        let (inside, queued) = (Gate(), Gate())
        control.post {
            control.stop()
            inside.open()
            queued.wait()
        }
        inside.wait()
        let done = Gate()
        // Behind a piece that has stopped the thread already.
        control.post { done.open() }
        queued.open()
        #expect(control.run { 7 } == 7)
        done.wait()
        control.stop()
    }

    enum Place: CaseIterable { case work, handler, prepare, answer, end }

    @Test("the thread can stop itself, wherever it is, and does not sleep before it ends", arguments: Place.allCases)
    func stopFromWithin(_ place: Place) throws {
        let control = ControlThread()
        let ended = Atomic(0)
        let fd = try #require(EventFD.make())
        try control.start("control") { waits in
            waits.on(fd.fd) { _ in
                _ = EventFD.take(fd.fd)
                control.stop()
            }
            if place == .prepare { control.stop() }
        } atEnd: {
            if place == .end { control.stop() }
            ended.add(1, ordering: .relaxed)
        }
        switch place {
        case .work: control.post { control.stop() }
        case .answer: control.run { control.stop() }
        case .handler: EventFD.signalOwn(fd.fd)
        case .prepare, .end: break
        }
        if place != .end { while ended.load(ordering: .relaxed) == 0 { giveWay() } }
        control.stop()
        #expect(ended.load(ordering: .relaxed) == 1)
        control.stop()
    }

    @Test("of many that stop it each returns when the thread has ended")
    func manyStops() throws {
        for _ in 0..<50 {
            let control = ControlThread()
            let ended = Atomic(false)
            try control.start("control") { _ in
            } atEnd: {
                for _ in 0..<10 { giveWay() }
                ended.store(true, ordering: .relaxed)
            }
            let early = Atomic(0)
            let stoppers = try onThreads { _ in
                control.stop()
                if !ended.load(ordering: .relaxed) { early.add(1, ordering: .relaxed) }
            }
            for stopper in stoppers { stopper.join() }
            #expect(early.load(ordering: .relaxed) == 0)
        }
    }

    @Test("work that posts and runs more work on its own thread does not wait for itself")
    func fromWithin() throws {
        let control = ControlThread()
        try control.start("control") { _ in }
        for _ in 0..<2 {
            let order = Order()
            control.run {
                control.post { order.numbers.append(3) }
                control.run { order.numbers.append(1) }
                order.numbers.append(2)
            }
            #expect(control.run { order.numbers.sorted() } == [1, 2, 3])
            // Then once more without a thread.
            control.stop()
        }
    }

    @Test("what the thread does at its end may still hand itself work, which runs before it is gone")
    func workAtEnd() throws {
        let control = ControlThread()
        let plain = Plain()
        var thread: pthread_t?
        try control.start("control") { _ in
        } atEnd: {
            control.post {
                plain.touch()
                thread = pthread_self()
                control.run { plain.touch() }
                control.post { plain.touch() }
            }
        }
        control.stop()
        #expect(plain.count == 3 && thread != pthread_self())
    }

    /// Owns a thread whose closures hold it: it goes with them.
    private final class Owner {
        let control = ControlThread()
        let gone: Gate
        init(_ gone: Gate) { self.gone = gone }
        deinit {
            control.stop()
            control.run {}
            gone.open()
        }
        func start() throws { try control.start("control", prepare: { _ in _ = self }, atEnd: { _ = self }) }
    }

    @Test("an owner whose last reference is the thread's may go with it, and stop it then")
    func ownerGoesWithThread() throws {
        for _ in 0..<50 {
            let gone = Gate()
            do {
                let owner = Owner(gone)
                try owner.start()
                let control = owner.control
                owner.control.post { control.stop() }
            }
            gone.wait()
        }
    }

    @Test("what work holds is let go before its end is told")
    func letsGo() throws {
        final class Held: Sendable {}
        let control = ControlThread()
        try control.start("control") { _ in }
        let left = Atomic(0)
        for _ in 0..<500 {
            weak var seen: Held?
            do {
                let held = Held()
                seen = held
                control.post { withExtendedLifetime(held) {} }
            }
            // The piece before this one has ended.
            control.run {}
            if seen != nil { left.add(1, ordering: .relaxed) }
        }
        control.stop()
        #expect(left.load(ordering: .relaxed) == 0)
    }

    @Test("handlers are told of what is readable, in their order; -1 is nothing to wait for")
    func handlers() throws {
        let control = ControlThread()
        let fds = try (0..<3).map { _ in try #require(EventFD.make()) }
        let told = Order()
        try control.start("control") { waits in
            waits.on(-1) { _ in told.numbers.append(-1) }
            for (i, fd) in fds.enumerated() {
                waits.on(fd.fd) { events in
                    if events != POLLIN || !EventFD.take(fd.fd) { told.numbers.append(-2) }
                    told.numbers.append(i)
                }
            }
        }
        control.run { for fd in fds.reversed() { EventFD.signalOwn(fd.fd) } }
        while control.run({ told.numbers.count }) < 3 { giveWay() }
        control.stop()
        #expect(told.numbers == [0, 1, 2])
    }

    @Test("a watched eventfd is told once a write, and not after it is no longer watched")
    func watched() throws {
        let control = ControlThread()
        let fd = try #require(EventFD.make())
        let told = Atomic(0)
        let isWatched = control.watch(fd.fd) { told.add(1, ordering: .relaxed) }
        #expect(isWatched)
        try control.start("control") { _ in }
        for i in 1...3 {
            EventFD.signalOwn(fd.fd)
            while told.load(ordering: .relaxed) < i { giveWay() }
            // Nobody reads it.
            for _ in 0..<20 { control.run {} }
            #expect(told.load(ordering: .relaxed) == i)
        }
        control.run { control.unwatch(fd.fd) }
        EventFD.signalOwn(fd.fd)
        for _ in 0..<20 { control.run {} }
        #expect(told.load(ordering: .relaxed) == 3)
        control.stop()
    }

    @Test("a deadline ends the sleep, one that has passed at once")
    func deadline() throws {
        let control = ControlThread()
        let rounds = Atomic(0)
        let due = Atomic<UInt64>(0)
        let early = Atomic(0)
        try control.start("control") { waits in
            let now = CPlat_monotonic_ns()
            // Nothing else wakes it before the stop.
            if rounds.load(ordering: .relaxed) < 20 && now < due.load(ordering: .relaxed) {
                early.add(1, ordering: .relaxed)
            }
            let next = rounds.load(ordering: .relaxed) % 2 == 0 ? now + 2_000_000 : now - 1
            due.store(next, ordering: .relaxed)
            waits.deadline = next
            rounds.add(1, ordering: .relaxed)
        }
        while rounds.load(ordering: .relaxed) < 20 { giveWay() }
        control.stop()
        #expect(early.load(ordering: .relaxed) == 0)
    }

    @Test("it can be started again after a stop, and work between the two is not lost")
    func startAgain() throws {
        let control = ControlThread()
        let plain = Plain()
        let isDone = Atomic(false)
        let posted = Atomic(0)
        let posters = try onThreads(4) { _ in
            while !isDone.load(ordering: .relaxed) {
                control.run { plain.touch() }
                posted.add(1, ordering: .relaxed)
            }
        }
        for _ in 0..<200 {
            try control.start("control") { _ in }
            control.stop()
        }
        isDone.store(true, ordering: .relaxed)
        for poster in posters { poster.join() }
        #expect(control.run { plain.count } == posted.load(ordering: .relaxed))
        #expect(plain.overlaps == 0)
    }
}
