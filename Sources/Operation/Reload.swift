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
        case retuned(PortOptions)
    }

    private let engine: Engine
    private let old: [String: (options: PortOptions, text: String)]
    private let new: [String: (options: PortOptions, text: String)]
    private var steps: [Step] = []

    private(set) var added: [String] = []
    private(set) var removed: [String] = []
    private(set) var changed: [String] = []
    /// Those of `changed` that need not be made anew.
    private var retuned: [String] = []

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
        retuned = changed.filter { name in
            guard let old = old[name]?.options, let new = new[name]?.options, old.canBecome(new) else { return false }
            return old.busyloop == new.busyloop || (try? engine.checkBusyloop(new.busyloop, port: name)) != nil
        }
    }

    /// Applies it; where a step fails, those before it are taken back, and the error is thrown. A port that had to go
    /// for a step that failed is there again, but its connection has ended.
    mutating func apply() throws(EngineError) {
        do throws(EngineError) {
            // New ports first, since they fail most easily, where they have room beside those that go.
            let isRoomy = engine.hasRoom(for: added.compactMap { new[$0]?.options })
            if isRoomy { for name in added { try add(name, new) } }
            // Afterwards they may send copies to ports that have come, and none to those that go.
            for name in retuned { try retune(name) }
            let anew = changed.filter { !retuned.contains($0) }
            for name in removed + anew { try remove(name) }
            if !isRoomy { for name in added { try add(name, new) } }
            for name in anew { try add(name, new) }
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
        case .retuned(let options):
            try? engine.retune(options.name, to: options)
        }
    }

    private mutating func retune(_ name: String) throws(EngineError) {
        guard let old = old[name]?.options, let new = new[name]?.options else { return }
        try engine.retune(name, to: new)
        steps.append(.retuned(old))
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
    /// Gives a port what can change while it runs: its busyloop budget, its threads, what a null port sends, and its
    /// options in a switch. All or nothing. Throws where it would have to be made anew.
    func retune(_ name: String, to new: PortOptions) throws(EngineError) {
        guard let old = portOptions.first(where: { $0.options.name == name })?.options, old.canBecome(new) else {
            throw EngineError("\(name): it would have to be made anew; remove and add it")
        }
        do throws(EngineError) {
            if new.busyloop != old.busyloop { try setBusyloop(new.busyloop, port: name) }
            if new.threads != old.threads { try setThreads(new.threads, port: name) }
            if new.kind != old.kind { try setEmit(new.kind.emit, port: name) }
            if new.switching != old.switching { try setSwitching(new.switching, port: name) }
        } catch {
            if new.busyloop != old.busyloop { try? setBusyloop(old.busyloop, port: name) }
            if new.threads != old.threads { try? setThreads(old.threads, port: name) }
            if new.kind != old.kind { try? setEmit(old.kind.emit, port: name) }
            throw error
        }
    }

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
    /// A port that runs can have these, too: they differ in what `Engine.retune` changes alone.
    fileprivate func canBecome(_ new: PortOptions) -> Bool {
        var same = self
        (same.busyloop, same.threads, same.switching) = (new.busyloop, new.threads, new.switching)
        // The same name: the same null port.
        if case (.null, .null) = (kind, new.kind), name == new.name { same.kind = new.kind }
        return same == new
    }

    fileprivate var mirrors: Bool { switching.mirrorIn != nil || switching.mirrorOut != nil }
}

extension PortKind {
    /// What a null port sends.
    fileprivate var emit: Int? { if case .null(_, let emit) = self { emit } else { nil } }
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
