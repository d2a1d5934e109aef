import CPlatform
import Glibc
import Memory

/// Landlock: which files this process can use from now on, whatever its user may.
struct FileRules {
    /// Rights of the kernel's interface (`LANDLOCK_ACCESS_FS_*`).
    struct Rights: OptionSet {
        let rawValue: UInt64
        static let writeFile = Rights(rawValue: 1 << 1)
        static let readFile = Rights(rawValue: 1 << 2)
        static let readFolder = Rights(rawValue: 1 << 3)
        static let removeFile = Rights(rawValue: 1 << 5)
        static let makeSocket = Rights(rawValue: 1 << 9)
        static let ioctl = Rights(rawValue: 1 << 15)

        static let reading: Rights = [.readFile, .readFolder]
        /// Sockets are made there and removed; what is no socket can be removed, too, as far as the user may.
        static let sockets: Rights = [.makeSocket, .removeFile]
        static let device: Rights = [.readFile, .writeFile, .ioctl]
        /// Those that a file has; the others are a folder's.
        static let ofFiles: Rights = [.readFile, .writeFile, .ioctl]

        /// All that a version of Landlock knows.
        static func all(_ version: Int32) -> Rights {
            Rights(rawValue: (1 << (version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13)) - 1)
        }
    }

    /// The kernel's version; 0: none.
    static let version = CPlat_landlock_version()
    private let rules: OwnedDescriptor
    private let known = Rights.all(FileRules.version)

    /// Nothing is allowed yet. Connections to TCP ports, signals to other processes and, unless the service manager is
    /// told by one, abstract sockets are not, either, where the kernel knows of them.
    init() throws(SandboxError) {
        let tcp: UInt64 = FileRules.version >= 4 ? 3 : 0
        let abstract: UInt64 = environment("NOTIFY_SOCKET")?.hasPrefix("@") == true ? 0 : 1
        let scopes: UInt64 = FileRules.version >= 6 ? 2 | abstract : 0
        rules = OwnedDescriptor(CPlat_landlock_rules(FileRules.version, known.rawValue, tcp, scopes))
        if rules.fd < 0 { throw SandboxError("Landlock", errno) }
    }

    /// Allows it at and beneath `path`. False: there is no such file. The descriptor that it returns is to be kept
    /// where the file system makes its files anew when it likes (/proc).
    @discardableResult
    func allow(_ path: String, _ rights: Rights) throws(SandboxError) -> OwnedDescriptor? {
        let place = OwnedDescriptor(CPlat_open_path(path))
        if place.fd < 0 { return nil }
        var status = stat()
        if fstat(place.fd, &status) != 0 { throw SandboxError(path, errno) }
        var rights = rights.intersection(known)
        if status.st_mode & S_IFMT != S_IFDIR { rights.formIntersection(.ofFiles) }
        let code = CPlat_landlock_allow(rules.fd, place.fd, rights.rawValue)
        if code != 0 { throw SandboxError("Landlock: \(path)", code) }
        return place
    }

    func enter() throws(SandboxError) {
        let code = CPlat_landlock_enter(rules.fd)
        if code != 0 { throw SandboxError("Landlock", code) }
    }
}

private func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }
