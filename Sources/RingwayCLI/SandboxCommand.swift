import ArgumentParser
import CPlatform
import Console
import Glibc
import Memory
import Operation
import Ringway

/// What the sandbox leaves (docs/security.md).
struct SandboxFlags: ParsableArguments {
    @Flag(
        inversion: .prefixedNo,
        help: "Give up, at the start, privileges, files and system calls that ports do not need (docs/security.md).")
    var sandbox = true

    @Option(
        help: ArgumentHelp(
            """
            What ports that are added later may use, too; repeat for each: a folder for sockets (without any: /run and \
            /tmp), a device, or a capability as in net_admin.
            """,
            valueName: "what"))
    var allow: [String] = []

    /// Ends the program where they cannot be.
    func apply(to settings: inout Settings) {
        settings.isConfined = sandbox
        settings.allowed = usage { try allow.map { try Allowance($0, option: "--allow") } }
    }
}

struct SandboxCommand: ParsableCommand, Confined {
    static let configuration = CommandConfiguration(
        commandName: "sandbox",
        abstract: "Show what the sandbox of forward and run is on this machine, and try to get out of it.",
        discussion: """
            Enters it as `forward` with these ports would, opens none, and tries what a dataplane never does, each by \
            one system call. Status 1 if anything was carried out. With --no-sandbox: what this user may do without it.
            """)

    @Option(name: .customLong("port"), help: ArgumentHelp("As of forward; repeat for each.", valueName: "port"))
    var ports: [String] = []
    @OptionGroup var sandbox: SandboxFlags

    func run() {
        let options = usage { try ports.map(PortSyntax.port) }
        var settings = Settings(EngineOptions(ports: options, mode: .drop), texts: ports)
        sandbox.apply(to: &settings)
        if settings.isConfined {
            do throws(SandboxError) {
                let report = try Sandbox(settings, file: nil).enter()
                for line in report.inForce { print("in force: \(line)") }
                for line in report.missing { print("not in force: \(line)") }
            } catch {
                fail("\(error)")
            }
        }
        flush()
        var isTight = true
        for n in Int32(0)... {
            var code: Int32 = 0
            guard let name = CPlat_attempt(n, &code) else { break }
            let isDone = code == 0
            print(
                "\(isDone ? "done   " : "refused"): \(String(cString: name))"
                    + (isDone ? "" : " (\(SystemError.text(code)))"))
            if isDone { isTight = false }
        }
        flush()
        if !isTight { Glibc.exit(1) }
    }
}
