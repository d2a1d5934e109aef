import CPlatform
import Console
import Glibc
import Memory
import Ringway

/// How ports become other ports while packets flow: all or nothing.
struct PortChange {
    /// A step that was taken, and what takes it back.
    private enum Step {
        case added(String)
        case removed(PortOptions)
    }

    private let engine: Engine
    private let old: [String: (options: PortOptions, text: String)]
    private let new: [String: (options: PortOptions, text: String)]
    private var steps: [Step] = []

    private(set) var added: [String] = []
    private(set) var removed: [String] = []
    private(set) var changed: [String] = []

    init(_ engine: Engine, _ texts: [String: String], to settings: Settings) {
        self.engine = engine
        old = Dictionary(
            uniqueKeysWithValues: engine.portOptions.map {
                ($0.options.name, ($0.options, texts[$0.options.name] ?? $0.options.name))
            })
        new = Dictionary(uniqueKeysWithValues: zip(settings.engine.ports, settings.texts).map { ($0.name, ($0, $1)) })
        // Who sends copies to another port comes after it, and goes before it.
        added = settings.engine.ports.filter { old[$0.name] == nil }.sorted { !$0.mirrors && $1.mirrors }.map(\.name)
        removed = engine.portOptions.map(\.options).filter { new[$0.name] == nil }.sorted {
            $0.mirrors && !$1.mirrors
        }.map(\.name)
        changed = settings.engine.ports.map(\.name).filter { name in
            old[name].map { $0.options != new[name]?.options } ?? false
        }
    }

    /// Applies it; where a step fails, those before it are taken back, and the error is thrown. A port that had to go
    /// for a step that failed is there again, but its connection has ended.
    mutating func apply() throws(EngineError) {
        do throws(EngineError) {
            // New ports first, since they fail most easily, where they have room beside those that go.
            let isRoomy = engine.hasRoom(for: added.compactMap { new[$0]?.options })
            if isRoomy { for name in added { try add(name, new) } }
            for name in removed + changed { try remove(name) }
            if !isRoomy { for name in added { try add(name, new) } }
            for name in changed { try add(name, new) }
        } catch {
            for step in steps.reversed() { takeBack(step) }
            throw error
        }
    }

    private func takeBack(_ step: Step) {
        switch step {
        case .added(let name):
            _ = try? engine.close(name)
        case .removed(let options):
            try? engine.open(options)
        }
    }

    private mutating func add(
        _ name: String, _ all: [String: (options: PortOptions, text: String)]
    ) throws(EngineError) {
        guard let port = all[name] else { return }
        try engine.open(port.options)
        steps.append(.added(name))
    }

    private mutating func remove(_ name: String) throws(EngineError) {
        guard let port = old[name] else { return }
        _ = try engine.close(name)
        steps.append(.removed(port.options))
    }
}

extension Engine {
    /// Adds a port. Its socket goes with the program, however that ends.
    func open(_ options: PortOptions) throws(EngineError) {
        try add(options)
        if let path = options.kind.listeningPath { Leftovers.add(socket: path) }
    }

    /// Removes a port; what it counted.
    func close(_ name: String) throws(EngineError) -> PortSnapshot {
        let path = portOptions.first { $0.options.name == name }?.options.kind.listeningPath
        let last = try remove(name)
        if let path { Leftovers.forget(socket: path) }
        return last
    }
}

extension PortOptions {
    fileprivate var mirrors: Bool { switching.mirrorIn != nil || switching.mirrorOut != nil }
}

/// SIGHUP as a wish to read the file again. It belongs to the process.
enum Hangup {
    /// Written in the handler.
    static let bell = CPlat_eventfd(0)

    /// Instead of ending the program.
    static func watch() {
        _ = bell
        signal(SIGHUP) { _ in
            let saved = errno
            EventFD.signalOwn(Hangup.bell)
            errno = saved
        }
    }
}
