import Virtio

extension EngineCore {
    /// Has a thread judge packets by the embedder's function, or by the mode's: before it starts, or on it, from the
    /// next round on.
    func setFunction(of thread: PollThread, _ judging: Judging) {
        if let box = thread.kept { return judge(thread, EmbeddedFunction(box: .passUnretained(box)), judging, box) }
        switch mode {
        case .drop, .generate: judge(thread, DropFunction(), judging)
        case .crossconnect: judge(thread, CrossconnectFunction(), judging)
        case .macswap: judge(thread, MACSwapFunction(), judging)
        case .switch:
            if let guarded = judging.guarded {
                judge(thread, GuardedSwitch(guarded), judging)
            } else if let addresses = judging.addresses {
                judge(thread, SwitchFunction(table: addresses), judging)
            }
        }
    }

    @inline(__always)
    private func judge<F: PacketFunction>(
        _ thread: PollThread, _ function: F, _ judging: Judging, _ box: FunctionBox? = nil
    ) {
        var traits = judging.traits ?? FunctionTraits(F.self)
        if judging.captures.isEmpty {
            thread.stopCapturing()
            return thread.judge(function, traits)
        }
        // An embedder's function finds the front read, and its time is measured; Ringway's own look for themselves.
        if box == nil {
            traits.budgetMicroseconds = 1 << 30
            if F.self != GuardedSwitch.self { traits.front = .nothing }
        }
        thread.judge(
            box ?? TypedFunctionBox(function), traits, capturing: judging.captures,
            keepsArrivals: box != nil || F.self == GuardedSwitch.self || F.self == MACSwapFunction.self)
    }

    /// Has all threads judge by what is so now, in one trip.
    func setFunctions() {
        let judging = self.judging
        var work = ThreadWork()
        for thread in threads {
            work.add(thread.index) { [unowned self] thread in
                thread.letParcelsHome()
                setFunction(of: thread, judging)
            }
        }
        run(work)
    }
}
