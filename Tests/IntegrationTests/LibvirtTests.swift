import Foundation
import Testing

/// A libvirtd of its own: with its own state, and with everything that it started gone when it goes.
private final class Libvirtd {
    private let program: Program
    private let socket: String

    init(_ folder: Folder) throws {
        socket = folder("libvirt-sock")
        try """
        unix_sock_dir = "\(folder.path)"
        auth_unix_rw = "none"
        listen_tls = 0
        log_outputs = "3:stderr"
        """.write(toFile: folder("libvirtd.conf"), atomically: true, encoding: .utf8)
        let script = """
            set -e
            for d in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run/libvirt; do
                mkdir -p $d
                mount -t tmpfs -o mode=755 tmpfs $d
            done
            printf '%s\\n' 'security_driver = "none"' 'cgroup_controllers = []' 'stdio_handler = "file"' \
                'namespaces = []' >/etc/libvirt/qemu.conf
            # The shell stays: the first process of a namespace has to wait for QEMUs whose parents have ended.
            libvirtd -f \(folder("libvirtd.conf")) --pid-file \(folder("libvirtd.pid")) &
            wait $!
            """
        program = try Program(
            "libvirtd",
            ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", script])
        let end = deadline(120)
        while (try? run("list")) == nil {
            guard program.isRunning, now < end else { throw Unexpected("libvirtd:\n\(program.output)") }
            usleep(100_000)
        }
    }

    /// `virsh` with these words.
    func virsh(_ words: [String]) -> [String] { ["virsh", "-c", "qemu+unix:///system?socket=\(socket)"] + words }

    @discardableResult
    func run(_ words: String...) throws -> String {
        let virsh = try Program("virsh", virsh(words))
        guard virsh.wait(seconds: 120) == 0 else { throw Unexpected("virsh \(words): \(virsh.output)") }
        return virsh.output
    }
}

/// `<interface type='vhostuser'>`, as libvirt makes QEMU's options of it.
@Suite(.serialized) struct LibvirtTests {
    /// docs/examples/libvirt-guest.xml, with what a guest of the testbed needs: no KVM, no disk.
    private static func domain(_ folder: Folder, socket: String) throws -> String {
        var text = try String(contentsOfFile: root + "/docs/examples/libvirt-guest.xml", encoding: .utf8)
        func replace(_ old: String, _ new: String) throws {
            guard text.contains(old) else { throw Unexpected("the example has no \(old)") }
            text = text.replacing(old, with: new)
        }
        try replace("<domain type='kvm'>", "<domain type='qemu'>")
        try replace("<memory unit='MiB'>1024<", "<memory unit='MiB'>256<")
        try replace("<cpu mode='host-passthrough'/>", "<cpu mode='maximum'/>")
        try replace("<source type='unix' path='/run/ringway/vm1.sock'", "<source type='unix' path='\(socket)'")
        try replace(
            "<boot dev='hd'/>",
            """
            <kernel>\(folder("vmlinuz"))</kernel><initrd>\(folder("initramfs.gz"))</initrd>
            <cmdline>console=ttyS0 quiet panic=-1 ipv6.disable=1</cmdline>
            """)
        // vectors=0: QEMU 7.2 without KVM cannot do MSI-X on a vhost back-end.
        try replace("<model type='virtio'/>", "<model type='virtio'/><alias name='ua-net'/>")
        try replace(
            "</domain>",
            """
            <qemu:override xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:device alias='ua-net'>
            <qemu:frontend><qemu:property name='vectors' type='unsigned' value='0'/></qemu:frontend>
            </qemu:device></qemu:override></domain>
            """)
        return text.replacing(/<disk.*?<\/disk>/.dotMatchesNewlines(), with: "")
    }

    @Test("a guest of libvirt's and one of QEMU's reach each other, also after a restart of Ringway")
    func guests() throws {
        let folder = Folder()
        for name in ["vmlinuz", "initramfs.gz"] {
            try FileManager.default.copyItem(atPath: "\(root)/.testbed/\(name)", toPath: folder(name))
        }
        // QEMU's user under libvirt is another than this one: it is in the group kvm.
        let ports = ["vhost-user:\(folder("a")),queues=2,mode=660,group=kvm", "vhost-user:\(folder("b"))"]
        var ringway = try Ringway(ports, mode: "switch")
        let libvirtd = try Libvirtd(folder)
        try LibvirtTests.domain(folder, socket: folder("a")).write(
            toFile: folder("guest.xml"), atomically: true, encoding: .utf8)
        try libvirtd.run("define", folder("guest.xml"))
        let line = libvirtd.virsh(["start", "guest1", "--console"]).map { "'\($0)'" }.joined(separator: " ")
        let a = try Guest(console: "libvirt", ["script", "-qec", line, "/dev/null"])
        let b = try Guest("guest-b", [.init(socket: folder("b"), mac: "52:54:00:00:00:0b", reconnects: true)])
        try boot(a, b)
        try a.configure("10.0.0.1")
        try b.configure("10.0.0.2")
        #expect(try a.loss(to: "10.0.0.2") == 0)
        #expect(try a.run("ls /sys/class/net/eth0/queues").contains("tx-1"), "it has the queue pairs that it asked for")
        try b.serve()
        #expect(try a.iperf("10.0.0.2", reverse: false) > 0)
        #expect(ringway.complaints == [])
        _ = try ringway.totals()
        ringway = try Ringway(ports, mode: "switch")
        for name in ["a", "b"] { _ = try ringway.program.wait(for: "\(folder(name)): front-end connected") }
        // The first ones may come before the rings run again.
        _ = try a.loss(to: "10.0.0.2", count: 3)
        #expect(try a.loss(to: "10.0.0.2") == 0)
        try libvirtd.run("destroy", "guest1")
        _ = try ringway.program.wait(for: "\(folder("a")): front-end gone")
        #expect(try libvirtd.run("dominfo", "guest1").contains("shut off"))
        _ = try ringway.totals()
        withExtendedLifetime((libvirtd, a, b)) {}
    }
}
