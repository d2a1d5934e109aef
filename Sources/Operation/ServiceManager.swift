import CPlatform
import Console
import Foundation
import Glibc
import Memory
import Ringway

/// The service manager that started this program and wants to be told how it is, by sd_notify(3)'s protocol: systemd,
/// for a unit with Type=notify. Each message is one datagram; any thread may send.
package final class ServiceManager: Sendable {
    /// How often it has to hear `alive`, in nanoseconds, if it watches this program: half of what it waits.
    package let watchPeriod: UInt64?
    private let socket: OwnedDescriptor
    private let place: String

    /// Nil: nobody wants to be told. Errors: what the environment says cannot be, or nobody listens there.
    package init?(_ environment: [String: String] = ProcessInfo.processInfo.environment) throws(EngineError) {
        guard let place = environment["NOTIFY_SOCKET"], !place.isEmpty else { return nil }
        self.place = place
        watchPeriod = try ServiceManager.watchPeriod(environment)
        socket = try DatagramPlace.connect(to: place, "NOTIFY_SOCKET=\(place)")
    }

    private static func watchPeriod(_ environment: [String: String]) throws(EngineError) -> UInt64? {
        guard let text = environment["WATCHDOG_USEC"] else { return nil }
        // The program that started this one may be the one that is watched.
        if let pid = environment["WATCHDOG_PID"], pid != "\(getpid())" { return nil }
        guard let us = UInt64(text), (1...UInt64(Int64.max) / 1000).contains(us) else {
            throw EngineError("WATCHDOG_USEC=\(text): microseconds stand here")
        }
        return us * 500
    }

    /// By which another process finds it.
    var variables: [String: String] {
        var all = ["NOTIFY_SOCKET": place]
        if let watchPeriod { all["WATCHDOG_USEC"] = "\(watchPeriod / 500)" }
        return all
    }

    /// All ports are open.
    package func ready(_ status: String) { send("READY=1", ServiceManager.line(status)) }

    /// It changes what it does; `ready` follows.
    package func reloading() {
        // Type=notify-reload takes only what was sent after it asked, by this clock.
        send("RELOADING=1", "MONOTONIC_USEC=\(CPlat_monotonic_ns() / 1000)")
    }

    /// This program's work is another process's from now on.
    func successor(_ process: pid_t) { send("MAINPID=\(process)") }

    package func stopping() { send("STOPPING=1") }

    /// What `systemctl status` shows.
    package func status(_ text: String) { send(ServiceManager.line(text)) }

    /// The control thread and all poll threads come round.
    package func alive() { send("WATCHDOG=1") }

    /// A name in it with a newline would be an assignment of its own.
    private static func line(_ status: String) -> String {
        "STATUS=" + status.split(whereSeparator: \.isNewline).joined(separator: " ")
    }

    private func send(_ assignments: String...) {
        let text = assignments.joined(separator: "\n")
        // Who is not there any more, or takes nothing, is a manager that asks for nothing, either.
        _ = text.withCString { Glibc.send(socket.fd, $0, strlen($0), Int32(MSG_NOSIGNAL)) }
    }
}
