import CPlatform
import Glibc
import Memory
import Ringway
import RingwayLab
import Synchronization
import Testing
import VhostUser
import Virtio

/// What drivers are told of the configuration space while they run: link, MTU, announcements (CONFIG_CHANGE).
@Suite struct LinkTests {
    /// A driver that reads its configuration space when it is told to.
    private struct Follower {
        let driver: EmbeddedDriver

        init(_ lab: Lab, _ port: Int, mtu: Bool = false, isPacked: Bool = false) throws {
            driver = try lab.driver(port) {
                $0.isPacked = isPacked
                $0.followsConfiguration = true
                $0.hasControl = true
                if mtu { $0.offloads = .mtu }
            }
        }

        /// CONFIG_CHANGE messages that wait; with `true` at least one is waited for.
        func changes(waiting: Bool) throws -> Int {
            let channel = try #require(driver.channel)
            var count = 0
            let end = CPlat_monotonic_ns() + 5_000_000_000
            repeat {
                while let message = try channel.receive() {
                    #expect(message.request == BackEndRequest.configChange.rawValue && message.payload.isEmpty)
                    #expect(!message.needsReply)
                    count += 1
                }
            } while waiting && count == 0 && CPlat_monotonic_ns() < end && usleep(1000) == 0
            return count
        }

        private func read(_ offset: Int) throws -> UInt16 {
            var payload = Payload()
            for value in [UInt32(offset), 2, 0] { payload.add32(value) }
            payload.add([0, 0])
            let answer = try driver.frontEnd.ask(.getConfig, payload).payload
            try #require(answer.count == 14)
            return UInt16(answer[12]) | UInt16(answer[13]) << 8
        }

        var status: UInt16 { get throws { try read(NetConfig.status) } }
        var mtu: UInt16 { get throws { try read(NetConfig.mtu) } }
    }

    @Test("a driver sees the link of a port that is down, also one that begins or comes then")
    func link() throws {
        let lab = try Lab(ports: 2, .crossconnect)
        let name = lab.paths[0]
        do {
            let follower = try Follower(lab, 0)
            #expect(try follower.status == NetConfig.linkUp && follower.changes(waiting: false) == 0)
            try lab.engine.setUp(false, port: name)
            #expect(try follower.changes(waiting: true) == 1 && follower.status == 0)
            // Nothing has changed.
            try lab.engine.setUp(false, port: name)
            #expect(try follower.status == 0 && follower.changes(waiting: false) == 0)
            try follower.driver.begin { try $0.tell(.resetOwner) }
            #expect(try follower.status == 0)
            try lab.engine.setUp(true, port: name)
            #expect(try follower.changes(waiting: true) == 1 && follower.status == NetConfig.linkUp)
            try lab.engine.setUp(false, port: name)
            #expect(try follower.changes(waiting: true) == 1)
        }
        let second = try Follower(lab, 0)
        #expect(try second.status == 0)
        let peer = try lab.driver(1)
        try lab.engine.setUp(true, port: name)
        #expect(try second.changes(waiting: true) == 1 && second.status == NetConfig.linkUp)
        #expect(peer.send(Frame.numbered(5)) && second.driver.receive(5).map(\.frame) == Frame.numbered(5))
    }

    @Test("an MTU that a driver has accepted stays until it begins again; another's changes at once")
    func mtu() throws {
        let lab = try Lab(ports: 2, .crossconnect)
        let (fixed, free) = (try Follower(lab, 0, mtu: true), try Follower(lab, 1))
        #expect(try fixed.mtu == 9000 && free.mtu == 9000)
        #expect(try !lab.engine.setMTU(1400, port: lab.paths[0]))
        #expect(try lab.engine.setMTU(1400, port: lab.paths[1]))
        #expect(try free.changes(waiting: true) == 1 && free.mtu == 1400)
        #expect(try fixed.mtu == 9000 && fixed.changes(waiting: false) == 0)
        try fixed.driver.begin { try $0.tell(.resetOwner) }
        #expect(try fixed.mtu == 1400)
        #expect(lab.engine.portOptions.map(\.options.mtu) == [1400, 1400])
        #expect(throws: EngineError("\(lab.paths[0]): mtu=67; at least 68 bytes")) {
            try lab.engine.setMTU(67, port: lab.paths[0])
        }
    }

    @Test("a port that had no MTU has one for the front-end that connects next")
    func firstMTU() throws {
        let lab = try Lab(ports: 2, .crossconnect, change: { $0.ports[0].mtu = nil })
        do {
            let follower = try Follower(lab, 0, mtu: true)
            #expect(!follower.driver.frontEnd.features.contains(.mtu))
            try lab.engine.setMTU(2000, port: lab.paths[0])
        }
        let next = try Follower(lab, 0, mtu: true)
        #expect(try next.driver.frontEnd.features.contains(.mtu) && next.mtu == 2000)
    }

    @Test("a driver is asked for announcements, and says that it has sent them", arguments: [false, true])
    func announce(isPacked: Bool) throws {
        let lab = try Lab(ports: 2, .crossconnect)
        let name = lab.paths[0]
        let gone = "\(name): no announcement: "
        #expect(throws: EngineError(gone + "there is no front-end")) { try lab.engine.requestAnnouncement(port: name) }
        let follower = try Follower(lab, 0, isPacked: isPacked)
        try lab.engine.requestAnnouncement(port: name)
        #expect(try follower.changes(waiting: true) == 1)
        #expect(try follower.status == NetConfig.linkUp | NetConfig.announce)
        #expect(follower.driver.command(3, 0, []) == 0)
        #expect(try follower.status == NetConfig.linkUp)
        let plain = try lab.driver(1)
        #expect(throws: EngineError("\(lab.paths[1]): no announcement: its driver has not accepted GUEST_ANNOUNCE")) {
            try lab.engine.requestAnnouncement(port: lab.paths[1])
        }
        withExtendedLifetime(plain) {}
    }

    /// Says whether port 0 is up.
    private struct Watcher: PacketFunction {
        static let state = Atomic(-1)
        mutating func process(_ packets: borrowing PacketBurst) -> Verdict? { nil }
        mutating func portChanged(_ port: Int, isUp: Bool) {
            if port == 0 { Self.state.store(isUp ? 1 : 0, ordering: .relaxed) }
        }
        static func eventually(_ value: Int) -> Bool {
            let end = CPlat_monotonic_ns() + 5_000_000_000
            while state.load(ordering: .relaxed) != value && CPlat_monotonic_ns() < end { usleep(1000) }
            return state.load(ordering: .relaxed) == value
        }
    }

    @Test("Ringway as the driver follows its back-end's link: a port whose link is down is down")
    func followed() throws {
        let far = try Lab(ports: 2, .crossconnect)
        let near = try Lab(
            ports: 0,
            change: { $0.ports = [PortOptions(.virtioUser(path: far.paths[0], isServer: false, tap: nil))] }
        ) { _ in Watcher() }
        #expect(Watcher.eventually(1))
        try far.engine.setUp(false, port: far.paths[0])
        #expect(Watcher.eventually(0))
        try far.engine.setUp(true, port: far.paths[0])
        #expect(Watcher.eventually(1))
        withExtendedLifetime(near) {}
    }
}
