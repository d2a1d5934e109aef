import CPlatform
import Foundation
import Control
import Glibc
import Memory
import Ringway

/// What a program that runs a dataplane gives up for good before it opens its ports, so that a guest that takes it over
/// gets little by it: docs/security.md. It comes before all other threads, which have it from the one that starts them;
/// what ports at the start can do, ports that are added later can do, too.
package struct Sandbox {
    /// Folders in which sockets may be made and removed.
    package private(set) var folders: [String]
    /// Files that may be opened for reading and writing, with requests of their own.
    package private(set) var devices: [String] = []
    /// Files and folders that may be read.
    package private(set) var readable = [
        // Libraries that are loaded late (names of users), the time zone, numbers of users.
        "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd",
        "/etc/group",
        // CPUs, nodes and pages; how many regions vhost takes; what a guest's memory is a file of.
        "/sys/devices/system", "/sys/kernel/mm", "/sys/module/vhost", "/dev/urandom",
    ]
    package private(set) var capabilities: Set<Capability> = []
    private(set) var calls = CallGroup.base

    /// What these settings need. `file`: that they come from. `follows`: there is another ringway, in whose place this
    /// one goes on.
    package init(_ settings: Settings, file: String? = nil, follows: Bool = false) {
        if follows { calls.append(.deadline) }
        folders = [settings.control, settings.controlRead].compactMap { $0.map { folder(of: $0.path) } }
        if case .socket(let place)? = settings.metrics { folders.append(folder(of: place.path)) }
        for port in settings.engine.ports { add(port) }
        // Else there is nobody who could add a port.
        if settings.control != nil || file != nil { addLaterOnes(settings.allowed) }
        for case .capability(let capability) in settings.allowed { capabilities.insert(capability) }
        for case .path(let path) in settings.allowed {
            if isFolder(path) { folders.append(path) } else { devices.append(path) }
        }
        if let file { readable += unique([file, wholePath(file) ?? file].map(Sandbox.readable)) }
        (folders, devices) = (unique(folders), unique(devices))
        if capabilities.contains(.bpf) {
            calls.append(.interfaces)
            // On which node an interface lies.
            readable.append("/sys/devices")
        }
    }

    /// What a port uses.
    private mutating func add(_ port: PortOptions) {
        if let path = port.kind.listeningPath { folders.append(folder(of: path)) }
        if port.socketAccess.user != nil || port.socketAccess.group != nil { capabilities.insert(.chown) }
        switch port.kind {
        case .tap where port.kind.descriptor == nil: addTap()
        // Sockets on an interface, a program there, promiscuous mode, and memory that stays where it is.
        case .xdp: capabilities.formUnion([.netRaw, .netAdmin, .bpf, .ipcLock])
        case .virtioUser(let path, _, _) where path.hasPrefix("/dev/"):
            devices.append(path)
            if path.hasPrefix("/dev/vhost-net") { addTap() }
        case .vhostUser, .virtioUser, .tap, .null: break
        }
    }

    private mutating func addTap() {
        devices.append("/dev/net/tun")
        capabilities.insert(.netAdmin)
    }

    /// What ports that are not there yet are likely to use.
    private mutating func addLaterOnes(_ allowed: [Allowance]) {
        let names = allowed.contains { if case .path(let path) = $0 { isFolder(path) } else { false } }
        if !names { folders += ["/run", "/tmp"] }
        devices += ["/dev/net/tun", "/dev/vhost-net"] + (0..<16).map { "/dev/vhost-vdpa-\($0)" }
    }

    /// An editor puts a new file in the old one's place, so its folder may be read, unless that has secrets of others.
    private static func readable(_ file: String) -> String {
        let folder = folder(of: file)
        return ["/", "/etc", "/root"].contains(wholePath(folder) ?? "/") ? file : folder
    }

    // MARK: Entering

    /// What is in force, and what the kernel does not give.
    package struct Report {
        package var inForce: [String] = []
        package var missing: [String] = []
    }

    /// The one that this process is in.
    private static let entered = Locked<Sandbox?>(nil)

    /// Gives it up. Errors: it is not as it has to be.
    package func enter() throws(SandboxError) -> Report {
        // They would go on as they are.
        let threads = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").count) ?? 1
        if threads > 1 { throw SandboxError("\(threads) threads run already") }
        // Read at the first use, else.
        tzset()
        Sandbox.entered.withLock { $0 = self }
        try Sandbox.check(CPlat_no_new_privileges(), "no_new_privs")
        var report = Report(inForce: ["no new privileges"])
        if FileRules.version > 0 {
            report.inForce.append(try enterFiles())
        } else {
            report.missing.append("Landlock (the kernel has none, or has not enabled it): files as this user may")
        }
        try Sandbox.check(CPlat_keep_capabilities(capabilities.reduce(0) { $0 | 1 << UInt64($1.rawValue) }), "capset")
        report.inForce.append("capabilities: " + Sandbox.effective)
        let code = CallGroup.enter(calls)
        if code == 0 {
            report.inForce.append("seccomp")
        } else {
            report.missing.append("seccomp (\(SystemError.text(code))): all system calls can be made")
        }
        return report
    }

    private static func check(_ code: Int32, _ what: String) throws(SandboxError) {
        if code != 0 { throw SandboxError(what, code) }
    }

    private func enterFiles() throws(SandboxError) -> String {
        let rules = try FileRules()
        for path in readable { try rules.allow(path, .reading) }
        for path in folders { try rules.allow(path, .sockets) }
        for path in devices + ["/dev/null"] { try rules.allow(path, .device) }
        // The kernel makes this folder anew, without its rule, when it needs memory and nobody has it open.
        if let own = try rules.allow("/proc/self", .reading) { _ = Unmanaged.passRetained(own) }
        try rules.enter()
        return "Landlock \(FileRules.version): sockets in \(list(folders)); devices: "
            + list(devices.filter { access($0, F_OK) == 0 })
    }

    /// Names of the effective capabilities.
    private static var effective: String {
        let now = CPlat_capabilities()
        return list((0..<UInt8(64)).filter { now >> $0 & 1 == 1 }.map { Capability(rawValue: $0)?.name ?? "\($0)" })
    }

    /// An error of these ports, and what would leave them what they lack.
    package static func explain(_ error: String, _ ports: [PortOptions]) -> String {
        let denials = [EACCES, EPERM, ENOSYS].map { SystemError.text($0) }
        guard let sandbox = entered.withLock(\.self), denials.contains(where: error.contains) else { return error }
        var lacking = sandbox.lacking(for: ports)
        // In a folder of somebody else's a superuser is one user among others now.
        if lacking.isEmpty && geteuid() == 0 { lacking = [Capability.dacOverride.name] }
        if lacking.isEmpty { return error }
        return error + "; ringway's sandbox refuses it: start it with "
            + lacking.map { "--allow \($0)" }.joined(separator: " ")
    }

    /// As `--allow` takes it.
    private func lacking(for ports: [PortOptions]) -> [String] {
        var wanted = Sandbox(Settings(EngineOptions(ports: [], mode: .drop), texts: []))
        for port in ports { wanted.add(port) }
        let allowed = folders.compactMap(wholePath).map { $0 == "/" ? $0 : $0 + "/" }
        return wanted.capabilities.subtracting(capabilities).map(\.name).sorted()
            + unique(wanted.devices).filter { !devices.contains($0) }
            + unique(wanted.folders).filter { folder in
                wholePath(folder).map { whole in !allowed.contains { (whole + "/").hasPrefix($0) } } ?? false
            }
    }
}

private func folder(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}

/// Without symbolic links; nil: there is no such file.
private func wholePath(_ path: String) -> String? {
    guard let whole = realpath(path, nil) else { return nil }
    defer { free(whole) }
    return String(cString: whole)
}

private func isFolder(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
}

private func unique(_ paths: [String]) -> [String] { Set(paths).sorted() }

private func list(_ words: [String]) -> String { words.isEmpty ? "none" : words.joined(separator: ", ") }
