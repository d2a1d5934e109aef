import Foundation
import Testing

/// Real /dev/vhost-net and a real vDPA device (the kernel's simulator), in a guest that has them.
@Suite(.serialized) struct KernelTests {
    private static func boot(_ archives: [String], cpus: Int = 2) throws -> Guest {
        let initrd = NSTemporaryDirectory() + "ringway-kernel-\(UUID().uuidString.prefix(8))"
        var image = Data()
        for name in ["initramfs.gz"] + archives {
            image.append(try Data(contentsOf: URL(fileURLWithPath: root + "/.testbed/" + name)))
        }
        try image.write(to: URL(fileURLWithPath: initrd))
        defer { try? FileManager.default.removeItem(atPath: initrd) }
        let guest = try Guest("guest-kernel", [], cpus: cpus, memory: 768, initrd: initrd, numa: [])
        try guest.ready()
        try guest.run("vdpa dev add name vdpa0 mgmtdev vdpasim_net && ls /dev/vhost-net /dev/vhost-vdpa-0")
        return guest
    }

    @Test("VhostNet on the kernel's devices: the suites of VhostTests that need them")
    func library() throws {
        let guest = try KernelTests.boot(["tests.cpio"])
        let text = try guest.run(
            "ringwayPackageTests.xctest --testing-library swift-testing --filter ControlPlane.RealV", seconds: 120)
        #expect(text.contains("Test run with 20 tests"), "\(text)")
        for name in [
            "a thousand starts and stops", "looped back byte by byte", "the busyloop timeout is set and read back",
            "address space of its own", "through its IOTLB",
            "the device goes by it", "goes on with what waited", "used before a stop, used while the calls were masked",
            "refusals come through with errno",
        ] {
            #expect(
                text.split(whereSeparator: \.isNewline).contains { $0.contains(name) && $0.contains("passed") },
                "\(text)")
        }
    }

    @Test("bursts that other threads deliver at once, on a machine with 8 CPUs: 2, 3, 4 and 8 threads")
    func manyThreads() throws {
        let guest = try KernelTests.boot(["tests.cpio"], cpus: 8)
        #expect(try guest.run("nproc").split(whereSeparator: \.isNewline).contains("8"))
        let text = try guest.run(
            "ringwayPackageTests.xctest --testing-library swift-testing --filter ManyThreadsTests", seconds: 300)
        #expect(text.contains("with 4 test cases passed") && text.contains("Test run with 1 test"), "\(text)")
    }

    @Test(
        """
        the program's ports on them: ping and TCP from the kernel's stack through vhost-net, a vhost-user port, a \
        driver and vhost-net again, with two queue pairs; packets through vDPA; probe; what cannot be opened
        """
    )
    func program() throws {
        let guest = try KernelTests.boot(["ringway.cpio"])
        let kernel = try guest.run("ringway probe /dev/vhost-net")
        #expect(kernel.contains("the kernel's vhost-net") && kernel.contains("VERSION_1"))
        let vdpa = try guest.run("ringway probe --port virtio-user:/dev/vhost-vdpa-0")
        #expect(vdpa.contains("CTRL_MAC_ADDR") && vdpa.contains("1500") && vdpa.contains("IOTLB_ASID"))

        for (place, text) in [
            ("/dev/vhost-vdpa-7", "vdpa dev show"), ("/dev/vhost-scsi", "unknown kind"), ("/tmp", "not a socket"),
        ] {
            #expect(try guest.run("ringway probe \(place)", anyStatus: true).contains(text))
        }
        #expect(
            try guest.run(
                "ringway forward --port virtio-user:/dev/vhost-net,busyloop=auto --mode drop", anyStatus: true
            ).contains("vhost's own timeout"))

        // The kernel's stack - t0 - vhost-net - Ringway - vhost-user - Ringway as its driver - vhost-net - t1 - the
        // stack of another name space.
        try guest.run(
            """
            (ringway forward --port vhost-user:/tmp/v,queues=2 --port \
            virtio-user:/dev/vhost-net,tap=t0,queues=2,busyloop=50us --json >/tmp/log 2>&1 &)
            """
        )
        try guest.run(
            """
            (ringway forward --port virtio-user:/tmp/v,queues=2 --port virtio-user:/dev/vhost-net,tap=t1,queues=2 \
            --json >/tmp/log2 2>&1 &); 
            """
                + "sleep 3; (unshare -n sleep 1000 &); sleep 1; ip link set t1 netns $(pidof sleep)")
        try guest.run("ip addr add 10.1.0.1/24 dev t0 && ip link set t0 up")
        try guest.run(
            """
            nsenter -t $(pidof sleep) -n sh -c 'ip addr add 10.1.0.2/24 dev t1; ip link set t1 up; \
            \(Guest.server)'
            """
        )
        #expect(try guest.loss(to: "10.1.0.2") == 0)
        for reverse in [false, true] { #expect(try guest.iperf("10.1.0.2", reverse: reverse) > 10) }
        let log = try guest.run(
            "killall ringway; while pidof ringway >/dev/null; do sleep 0.1; done; cat /tmp/log /tmp/log2")
        #expect(
            log.components(separatedBy: "\"type\":\"totals\"").count == 3 && !log.contains(" stopped: ")
                && !log.contains(" broken"), "\(log)")
        #expect(log.contains("vhost polls for 50 us") && log.contains("queue pair 1 on"), "\(log)")

        // The simulator returns what is addressed to its MAC, which is set through its control queue.
        try guest.run(
            """
            (ringway forward --mode crossconnect --port virtio-user:/dev/vhost-vdpa-0,mac=02:00:00:00:00:02 --port \
            vhost-user:/tmp/a --json >/tmp/log 2>&1 &); sleep 2
            """
        )
        let drive = try guest.run("ringway drive /tmp/a --seconds 1 --ring-size 256", seconds: 60)
        let rates = drive.split(whereSeparator: \.isNewline).compactMap { $0.split(separator: " ").last }.compactMap {
            Double($0)
        }
        #expect(rates.contains { $0 > 0.001 }, "\(drive)")
        let end = try guest.run("killall ringway; while pidof ringway >/dev/null; do sleep 0.1; done; cat /tmp/log")
        #expect(end.contains("\"type\":\"totals\"") && !end.contains(" stopped: "), "\(end)")
    }

    @Test(
        """
        a TAP that is deleted under a vhost-net port: the port says so and counts nothing as sent until there is one \
        of its name again, of which it takes one queue of several
        """
    )
    func tapGone() throws {
        let guest = try KernelTests.boot(["ringway.cpio"])
        func wait(for text: String, in file: String = "/tmp/log") throws {
            try guest.run("until grep -q '\(text)' \(file); do sleep 0.2; done", seconds: 60)
        }
        try guest.run(
            """
            (ringway forward --mode crossconnect --stats 0.5 --json --port vhost-user:/tmp/a --port \
            virtio-user:/dev/vhost-net,tap=t0 >/tmp/log 2>&1 &)
            """
        )
        try wait(for: "connected to")
        try guest.run("ip link set t0 up && (ringway drive /tmp/a --seconds 1000 --ring-size 256 >/dev/null 2>&1 &)")
        /// The newest interval of the port's statistics; nil before the first.
        func newest() throws -> (isConnected: Bool, sent: Int)? {
            let text = try guest.run("grep '^{\"type\":\"interval\"' /tmp/log | tail -n 1")
            guard let line = text.split(whereSeparator: \.isNewline).first(where: { $0.hasPrefix("{") }) else {
                return nil
            }
            guard let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any],
                let port = (object["ports"] as? [[String: Any]])?.last, let isConnected = port["connected"] as? Bool
            else { throw Unexpected("statistics: \(text)") }
            return (isConnected, try PortTotals(port).txPackets)
        }
        func isSending() throws -> Bool {
            for _ in 0..<120 {
                if let now = try newest(), now.isConnected && now.sent > 0 { return true }
                try guest.run("sleep 0.5")
            }
            return false
        }
        try #require(try isSending())
        try guest.run("ip link del t0")
        try wait(for: "interface t0 has gone")
        // Whole intervals after it.
        for _ in 0..<4 {
            try guest.run("sleep 1")
            let now = try #require(try newest())
            #expect(!now.isConnected && now.sent == 0)
        }
        // A multi-queue one, of which another program holds two queues.
        try guest.run(
            """
            (ringway forward --mode crossconnect --json --port tap:t0,queues=2 --port vhost-user:/tmp/c,queues=2 \
            >/tmp/log2 2>&1 &)
            """
        )
        try wait(for: "interface t0 with 2 queues", in: "/tmp/log2")
        try guest.run("ip link set t0 up")
        try #require(try isSending())
        let log = try guest.run("killall ringway; while pidof ringway >/dev/null; do sleep 0.1; done; cat /tmp/log")
        // Vhost may report its queue as broken before the interface is seen to be gone.
        #expect(
            log.components(separatedBy: "connected to").count == 3 && log.contains("\"type\":\"totals\"")
                && !log.contains(" stopped: "), "\(log)")
    }
}
