import Glibc
import Ringway
import Testing

@Suite struct EndSignalsTests {
    @Test("all but a program's own signals are taken")
    func except() {
        // They belong to the process: as they were afterwards.
        var mask = sigset_t()
        pthread_sigmask(SIG_SETMASK, nil, &mask)
        let before = EndSignals.all.map { number in
            var action = sigaction()
            sigaction(number, nil, &action)
            return action
        }
        defer {
            for (number, var action) in zip(EndSignals.all, before) { sigaction(number, &action, nil) }
            pthread_sigmask(SIG_SETMASK, &mask, nil)
        }
        signal(SIGHUP, SIG_DFL)
        signal(SIGUSR2, SIG_DFL)
        _ = EndSignals(except: [SIGHUP])
        #expect(EndSignalsTests.handler(SIGHUP) == 0 && EndSignalsTests.handler(SIGUSR2) > 1)
        _ = EndSignals()
        #expect(EndSignalsTests.handler(SIGHUP) == EndSignalsTests.handler(SIGUSR2))
    }

    private static func handler(_ number: Int32) -> Int {
        var action = sigaction()
        sigaction(number, nil, &action)
        return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
    }
}
