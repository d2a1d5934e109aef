import Virtio

/// The receiving end of a delivery: puts packets into a ring of this thread, and counts what became of them.
enum Receiver {
    /// Delivers a list of packets as they are; returns how many were dealt with.
    @inline(__always)
    static func put(
        _ thread: ThreadPointer, _ receiver: PairPointer, _ burst: borrowing Burst, _ list: PacketList
    ) -> Int {
        let result = receiver.pointee.receive.end.deliver(thread, receiver, burst, list)
        account(thread, receiver, result)
        return result.consumed
    }

    /// Counts a delivery and calls the driver.
    @inline(__always)
    static func account(_ thread: ThreadPointer, _ receiver: PairPointer, _ result: Delivery) {
        if result.consumed == 0 {
            if receiver.pointee.receive.end.defect(.receive).kind != .none {
                report(thread, receiver, .receive)
            }
            return
        }
        thread.pointee.didWork = true
        receiver.pointee.counters.add(.txPackets, result.delivered)
        receiver.pointee.counters.add(.txBytes, Int(truncatingIfNeeded: result.bytes))
        if result.delivered < result.consumed {
            drop(receiver, receiver.pointee.receive.end.refusal, result.consumed &- result.delivered)
        }
        receiver.pointee.receive.end.callReceiver(thread, receiver)
    }

    @inline(__always)
    static func drop(_ pair: PairPointer, _ cause: DropCause, _ n: Int) {
        pair.pointee.counters.drop(cause, n)
    }

    /// A ring had to stop: tells the port's control thread, once, which tells the front-end.
    @inline(never)
    static func report(_ thread: ThreadPointer, _ pair: PairPointer, _ direction: QueueDirection) {
        if pair.pointee[direction].isReported { return }
        pair.pointee[direction].isReported = true
        thread.pointee.notifier.call(pair.pointee.defectFD)
    }
}
