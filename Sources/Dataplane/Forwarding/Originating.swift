import CPlatform
import Virtio

/// Packets that Ringway makes itself.
extension Forwarder {
    /// `generate`: fills the pair's receive ring from the thread's template. True if it took something.
    @inline(__always)
    static func generate(_ thread: ThreadPointer, _ sender: PairPointer) -> Bool {
        if !(sender.pointee.receive.isRunning && sender.pointee.receive.isEnabled) { return false }
        if sender.pointee.receiveLag.isWaiting(thread.pointee.now) { return false }
        let leave = sender.pointee.receiveLag.leave
        if leave > 0 && !sender.pointee.receive.end.mayTake(sender.pointee.receiveLag.least &+ leave) {
            sender.pointee.receiveLag.note(0, thread.pointee.now)
            return false
        }
        let result: Delivery
        switch thread.pointee.template {
        case .none: return false
        case .some(let template):
            result = sender.pointee.receive.end.deliver(
                thread, sender, template.burst, template.burst.first(template.burst.count))
        }
        sender.pointee.receiveLag.note(result.consumed, thread.pointee.now)
        sender.pointee.receiveLag.judge(thread.pointee.now)
        Receiver.account(thread, sender, result)
        if result.consumed == 0 { return false }
        thread.pointee.arrived = result.consumed
        sender.pointee.counters.add(.made, result.consumed)
        return true
    }

    /// Delivers one frame of the engine's own (`PacketSlot.longestFront` bytes at most) to pair 0 of each target that
    /// this thread owns.
    static func inject(_ thread: ThreadPointer, _ frame: [UInt8], to targets: [Int]) {
        thread.pointee.resolved.needsScreening = false
        // All of it lies in the packet's own memory.
        thread.pointee.resolved.packets[0].make(frame.count)
        CPlat_copy(thread.pointee.resolved.packets[0].frontBytes, frame, UInt64(frame.count))
        for port in targets {
            guard let receiver = thread.pointee.table[port, 0],
                receiver.pointee.owner == UInt32(thread.pointee.index)
            else { continue }
            _ = handOut(
                thread, receiver, thread.pointee.resolved, thread.pointee.resolved.first(1), copies: 1)
        }
    }
}
