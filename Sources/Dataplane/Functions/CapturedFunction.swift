import Virtio

/// The packet function of a thread that captures: another one behind one call a burst. By its type the thread's loop
/// knows at compile time that it captures, so that it costs nothing where it does not (`Forwarder.sendCaptured`).
struct CapturedFunction: PacketFunction {
    let box: Unmanaged<FunctionBox>

    @inline(__always)
    mutating func process(_ packets: borrowing PacketBurst) -> Verdict? {
        box._withUnsafeGuaranteedRef { $0.process(packets) }
    }

    mutating func tick(_ burst: borrowing PacketBurst) { box._withUnsafeGuaranteedRef { $0.tick(burst) } }
}
