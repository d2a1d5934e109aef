import Virtio

/// What stands in the place of a guest's rings where Ringway itself is the driver, or reads a TAP device. The same
/// steps of a burst's life as `DeviceQueue` has, called when `PairState.driver` or `PairState.tap` is set.
enum OtherEnd {
    @inline(never)
    static func pop(_ t: ThreadPointer, _ p: PairPointer) -> Int {
        if let tap = p.pointee.tap { return tap.pointee.pop(&t.pointee.burst, limit: p.pointee.window) }
        guard let d = p.pointee.driver else { return 0 }
        let n = d.pointee.pop(&t.pointee.burst, limit: p.pointee.window)
        if n > 0 {
            if p.pointee.isArmed {
                p.pointee.isArmed = false
                d.pointee.disarm()
            }
        } else if d.pointee.receive.isStopped {
            p.pointee.transmit.queue.stop(d.pointee.receive.defect)
        }
        return n
    }

    @inline(never)
    static func unpop(_ p: PairPointer, _ packets: UnsafePointer<Packet>, _ n: Int) {
        if let tap = p.pointee.tap { tap.pointee.unpop(n) }
        p.pointee.driver?.pointee.unpop(packets, n)
    }

    @inline(never)
    static func complete(_ t: ThreadPointer, _ p: PairPointer, _ packets: UnsafePointer<Packet>, _ n: Int) {
        if let tap = p.pointee.tap { tap.pointee.complete(n) }
        guard let d = p.pointee.driver else { return }
        if d.pointee.complete(packets, n) {
            p.pointee.counters.add(.transmitCalls, 1)
            t.pointee.notifier.call(d.pointee.receiveKick, p.pointee.times[.transmitCallDelay])
        }
    }

    @inline(never)
    static func deliver(_ t: ThreadPointer, _ p: PairPointer, _ burst: Burst, _ list: UnsafePointer<UInt16>, _ n: Int) -> Delivery {
        if let tap = p.pointee.tap { return tap.pointee.deliver(burst, list, n) }
        guard let d = p.pointee.driver else { return Delivery(consumed: n, delivered: 0, bytes: 0) }
        let result = d.pointee.deliver(burst, list, n)
        if d.pointee.transmit.isStopped {
            p.pointee.receive.queue.stop(d.pointee.transmit.defect)
        } else if result.delivered > 0 && d.pointee.transmit.needsKick() {
            p.pointee.counters.add(.receiveCalls, 1)
            t.pointee.notifier.call(d.pointee.transmitKick, p.pointee.times[.receiveCallDelay])
        }
        return result
    }

    /// Before the pair is left alone: asks to be told of packets. True if there are some already.
    @inline(never)
    static func arm(_ p: PairPointer) -> Bool {
        if let tap = p.pointee.tap { return tap.pointee.arm() }
        p.pointee.isArmed = true
        return p.pointee.driver?.pointee.arm() ?? false
    }
}
