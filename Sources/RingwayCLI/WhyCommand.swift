import ArgumentParser
import Console
import Operation

struct WhyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "why", abstract: "Say what a queue of a ringway that runs waits for, since when, and what to do.",
        discussion: """
            Without a port: of each queue that stands still. The socket for reading (--control-read) will do.

              ringway why
              ringway why /run/vm1.sock
              ringway why /run/vm1.sock/0      a queue: 2k is pair k's receive queue, 2k+1 its transmit queue
            """)

    @Argument(help: ArgumentHelp("A port, as `ringway port list` prints it, or PORT/QUEUE.", valueName: "port"))
    var place: String?
    @OptionGroup var options: ControlOptions

    func run() {
        let (port, queue) = place.map { options.split($0) } ?? (nil, nil)
        var answer = options.call(Methods.Why.self, .init(port: port, queue: queue))
        if place == nil { answer.queues.removeAll { !$0.standsStill } }
        options.show(answer) { answer in
            answer.queues.isEmpty ? ["no queue stands still"] : QueueReport.paragraphs(answer.queues)
        }
    }
}

extension ControlOptions {
    /// A port and its queue. What stands behind the last slash is a queue, unless there is a port of the whole name.
    func split(_ place: String) -> (port: String, queue: Int?) {
        guard let slash = place.lastIndex(of: "/"), let queue = Int(place[place.index(after: slash)...]),
            !call(Methods.ListPorts.self, .init()).ports.contains(where: { $0.name == place })
        else { return (place, nil) }
        return (String(place[..<slash]), queue)
    }
}
