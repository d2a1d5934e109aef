import CPlatform
import Glibc
import Memory
import Synchronization

/// The signals that ask a program to end, taken so that it can stop its engine first: SIGINT, SIGTERM, SIGHUP, SIGQUIT,
/// SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU, and SIGPIPE, which comes when nobody reads the output any more. Each of them
/// would end the program at once and leave the engine's sockets behind. (After SIGKILL the next start takes them over.)
///
/// SIGHUP is among them because it is how a terminal ends what runs in it.
///
/// The signals belong to the process, so all values are one. Any thread may ask.
public struct EndSignals: Sendable {
    /// The numbers of the signals that are taken.
    public static let all = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU, SIGPIPE]

    /// The first signal that came (0: none), and how many came.
    private static let firstNumber = Atomic<Int32>(0)
    private static let arrivals = Atomic<Int>(0)
    /// An eventfd that stays readable after the first.
    private static let bell = CPlat_eventfd(0)

    /// From here on they are only noted, also where they were blocked. What is ignored, as under nohup, stays so.
    /// - Parameter own: signals that are left as they are, such as SIGHUP where a program takes it for a wish to read
    ///   its settings again. Before its handler is there, they end the program as ever.
    public init(except own: Set<Int32> = []) {
        var set = sigset_t()
        for number in EndSignals.all where !own.contains(number) {
            sigaddset(&set, number)
            var old = sigaction()
            sigaction(number, nil, &old)
            if unsafeBitCast(old.__sigaction_handler.sa_handler, to: Int.self) == 1 { continue }
            // Made before a handler needs them.
            _ = (EndSignals.firstNumber.load(ordering: .relaxed), EndSignals.arrivals.load(ordering: .relaxed))
            _ = EndSignals.bell
            signal(number) { EndSignals.note($0) }
        }
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
    }

    /// In a signal handler: atomic operations and write(2) alone.
    private static func note(_ number: Int32) {
        let saved = errno
        _ = firstNumber.compareExchange(expected: 0, desired: number, ordering: .releasing)
        arrivals.add(1, ordering: .relaxed)
        EventFD.signalOwn(bell)
        errno = saved
    }

    /// The first one that came.
    public var first: Int32? {
        let number = EndSignals.firstNumber.load(ordering: .acquiring)
        return number == 0 ? nil : number
    }

    /// How many came.
    public var count: Int { EndSignals.arrivals.load(ordering: .relaxed) }

    /// Sleeps until one has come, which it returns, or until `seconds` have passed (nil). At once where one came
    /// before.
    public func wait(seconds: Double = .infinity) -> Int32? {
        let start = CPlat_monotonic_ns()
        while first == nil {
            let left = seconds - Double(CPlat_monotonic_ns() &- start) / 1e9
            if !(left > 0) { return nil }
            // An hour at a time, in milliseconds: poll(2) counts up to 24 days.
            var bell = pollfd(fd: EndSignals.bell, events: Int16(POLLIN), revents: 0)
            _ = poll(&bell, 1, left == .infinity ? -1 : Int32((min(left, 3600) * 1000).rounded(.up)))
        }
        return first
    }
}
