import ArgumentParser
import Console
import Operation

struct RunCommand: ParsableCommand, GoesOn, Confined {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Forward packets as a file says, until a signal that ends programs.",
        discussion: """
            SIGHUP, or `ringway reload`, has the file read again: ports that are new in it are added, others removed \
            or made anew; all or nothing. Other ports are not disturbed. The file (docs/configuration.md):

              mode: switch
              control: /run/ringway/ctl.sock,mode=660
              ports:
                - vhost-user:/run/vm1.sock,queues=2
                - vhost-user: /run/vm2.sock
                  access: 10
                  isolated: on
            """)

    @Option(help: ArgumentHelp("The file.", valueName: "file")) var config: String
    @Option(
        help: ArgumentHelp(
            """
            Go on in the place of the ringway with this control socket, then read the file as if again; guests stay \
            connected (docs/upgrade.md).
            """,
            valueName: "path"))
    var upgradeFrom: String?
    @Option(help: ArgumentHelp("Print counters at this interval.", valueName: "seconds")) var stats: Double?
    @Flag(help: "Print intervals and totals as one JSON object a line.") var json = false
    @Option(help: ArgumentHelp("End after this long.", valueName: "seconds")) var duration: Double?

    func run() {
        checkPeriods(stats: stats, duration: duration)
        let file = usage { try SettingsFile(config) }
        let successor = upgradeFrom.map { Successor.find($0) }
        if let successor { usage { try file.checkSame(successor.settings) } }
        Run(
            settings: successor?.settings ?? file.settings, file: config, successor: successor, json: json,
            stats: stats, duration: duration
        ).run()
    }
}

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Check a file of `ringway run`; opens nothing.")

    @Argument(help: "The file.") var file: String

    func run() {
        let settings = usage { try SettingsFile(file).settings }
        print("\(file): mode \(settings.engine.mode.name), \(settings.texts.count) ports")
        flush()
    }
}

struct ReloadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reload", abstract: "Have a `ringway run` read its file again: all or nothing.")
    @OptionGroup var options: ControlOptions

    func run() {
        options.show(options.call(Methods.Reload.self, .init())) { answer in
            [("added", answer.added), ("removed", answer.removed), ("changed", answer.changed)].filter { !$0.1.isEmpty }
                .map { "\($0): \($1.joined(separator: ", "))" }
        }
    }
}

struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export-config", abstract: "Print what a ringway that runs does as a file of `ringway run`.")
    @OptionGroup var options: ControlOptions

    func run() {
        options.show(options.call(Methods.Export.self, .init())) {
            $0.config.split(separator: "\n").map(String.init)
        }
    }
}
