import Foundation
import Operation
import Ringway
import Testing

/// What the sandbox leaves to which settings. What it is in a process: SandboxTests of IntegrationTests.
@Suite struct SandboxTests {
    private static func sandbox(
        _ ports: [String], control: String? = nil, allow: [String] = [], file: String? = nil
    ) throws -> Sandbox {
        let options = try ports.map(PortSyntax.port)
        var settings = Settings(EngineOptions(ports: options, mode: .switch), texts: ports)
        settings.control = control.map { SocketPlace($0) }
        settings.allowed = try allow.map { try Allowance($0, option: "--allow") }
        return Sandbox(settings, file: file)
    }

    @Test("ports that are served by sockets need their folders, and no capability")
    func sockets() throws {
        let s = try SandboxTests.sandbox([
            "vhost-user:/run/a/x.sock", "vhost-user:/run/b/x.sock,mode=600", "virtio-user:/srv/x.sock,server=on",
            "vhost-user:/elsewhere/x.sock,client=on", "virtio-user:/elsewhere/x.sock", "null:n",
        ])
        #expect(s.folders == ["/run/a", "/run/b", "/srv"] && s.capabilities.isEmpty && s.devices.isEmpty)
    }

    @Test("TAPs and vhost-net need their devices and CAP_NET_ADMIN; vDPA its device; another owner CAP_CHOWN")
    func devices() throws {
        let tap = try SandboxTests.sandbox(["tap:t"])
        #expect(tap.devices == ["/dev/net/tun"] && tap.capabilities == [.netAdmin] && tap.folders.isEmpty)
        let kernel = try SandboxTests.sandbox(["virtio-user:/dev/vhost-net,tap=t"])
        #expect(kernel.devices == ["/dev/net/tun", "/dev/vhost-net"] && kernel.capabilities == [.netAdmin])
        let vdpa = try SandboxTests.sandbox(["virtio-user:/dev/vhost-vdpa-7"])
        #expect(vdpa.devices == ["/dev/vhost-vdpa-7"] && vdpa.capabilities.isEmpty)
        let xdp = try SandboxTests.sandbox(["xdp:eth0"])
        #expect(xdp.capabilities == [.netAdmin, .netRaw, .bpf, .ipcLock] && xdp.devices.isEmpty && xdp.folders.isEmpty)
        #expect(xdp.readable.contains("/sys/devices") && !tap.readable.contains("/sys/devices"))
        #expect(try SandboxTests.sandbox(["vhost-user:/run/x,group=7"]).capabilities == [.chown])
    }

    @Test("with a control socket or a file ports may come later: in /run and /tmp, or where --allow says")
    func later() throws {
        #expect(try SandboxTests.sandbox([], control: "/srv/c/ctl").folders == ["/run", "/srv/c", "/tmp"])
        let named = try SandboxTests.sandbox(
            ["vhost-user:/var/x"], control: "/srv/c/ctl", allow: ["/usr", "net_admin", "/dev/null"])
        #expect(named.folders == ["/srv/c", "/usr", "/var"] && named.capabilities == [.netAdmin])
        #expect(named.devices.contains("/dev/null") && named.devices.contains("/dev/vhost-net"))
        // Of what is there from the start, too.
        #expect(try SandboxTests.sandbox(["null:x"], allow: ["dac_override"]).capabilities == [.dacOverride])
    }

    @Test("the folder of the configuration may be read, but for those that have secrets")
    func file() throws {
        #expect(try SandboxTests.sandbox([], file: "/usr/lib/x.yaml").readable.contains("/usr/lib"))
        let shared = try SandboxTests.sandbox([], file: "/etc/passwd-x.yaml")
        #expect(shared.readable.contains("/etc/passwd-x.yaml") && !shared.readable.contains("/etc"))
    }

    @Test(
        "what cannot be allowed",
        arguments: [
            ("/nowhere/x", "there is no such folder or device"), ("tun", "chown, dac_override"),
            ("", "write a folder or device"), ("NET_ADMIN", "net_admin"),
        ])
    func wrong(text: String, part: String) {
        #expect { try Allowance(text, option: "--allow") } throws: {
            "\($0)".hasPrefix("--allow \(text): ") && "\($0)".contains(part)
        }
    }

    @Test("names of capabilities are the kernel's")
    func names() {
        #expect(Capability.netAdmin.name == "net_admin" && Capability.bpf.name == "bpf")
    }
}
