import ArgumentParser
import Console
import Operation

struct TraceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace", abstract: "Print what has happened to the queues of a port of a ringway that runs.",
        discussion: """
            Its last 64 events: that a queue was started, stopped, stands still, goes on; and what it did since the \
            event before. It is seen once a second: what came and went within one is not there. The socket for reading \
            (--control-read) will do.

              ringway trace /run/vm1.sock/0
            """)

    @Argument(help: ArgumentHelp("A port, as `ringway port list` prints it, or PORT/QUEUE.", valueName: "port"))
    var place: String
    @OptionGroup var options: ControlOptions

    func run() {
        let (port, queue) = options.split(place)
        options.show(options.call(Methods.Trace.self, .init(port: port, queue: queue))) { answer in
            answer.queues.flatMap { queue in
                ["\(port) queue \(queue.queue) (\(queue.queue % 2 == 0 ? "receive" : "transmit"))"]
                    + queue.events.map { event in
                        let counts = [
                            (event.packets, "packets"), (event.kicks, "kicks"), (event.calls, "calls"),
                            (event.dropped, "drops"),
                        ].filter { $0.0 > 0 }.map { "\($0) \($1)" }.joined(separator: ", ")
                        return "  \(event.time)  start \(event.starts)  \(event.text)"
                            + (counts.isEmpty ? "" : "; before: \(counts)")
                    }
            }
        }
    }
}
