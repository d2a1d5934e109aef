import CPlatform
import Glibc
import Memory

/// The program on an interface that hands each queue's frames to its socket. It is attached by a bpf_link, which ends
/// with this object, or with the process, however that ends; the interface's frames go to the kernel again.
///
/// Five instructions, which CPlatform has as they are: there is nothing to compile, and no library to load them.
final class XDPProgram {
    /// The driver calls it; else ("generic") the kernel does, for frames that it has made packets of already.
    let isNative: Bool
    /// Frames may come in several pieces.
    let takesPieces: Bool
    /// Why it is not native.
    let whyNot: String
    private let link: OwnedDescriptor
    private let map: OwnedDescriptor
    /// As long as it is open, the interface takes frames for all addresses.
    private let promiscuous: OwnedDescriptor

    /// Attaches it; no queue has a socket yet. Error: who is there already, or what is missing.
    init(_ interface: NetworkLink, queues: Int) throws(EngineError) {
        map = OwnedDescriptor(CPlat_xdp_map(UInt32(queues)))
        if map.fd < 0 { throw XDPProgram.refusal("bpf(BPF_MAP_CREATE)", errno) }
        (link, isNative, takesPieces, whyNot) = try XDPProgram.attach(to: interface, map)
        promiscuous = OwnedDescriptor(CPlat_promiscuous(interface.index))
        if promiscuous.fd < 0 { throw XDPProgram.refusal("promiscuous mode of \(interface.name)", errno) }
    }

    /// Natively where that can be. A program that takes frames in pieces keeps some drivers from zero copy, so it comes
    /// second where frames are short; but others take no program without (a veth whose peer has a large MTU).
    private static func attach(
        to interface: NetworkLink, _ map: OwnedDescriptor
    ) throws(EngineError) -> (OwnedDescriptor, isNative: Bool, takesPieces: Bool, whyNot: String) {
        var refused: Int32 = 0
        for (isNative, takesPieces) in [(true, false), (true, true), (false, true), (false, false)] {
            if interface.needsPieces && !takesPieces { continue }
            let program = OwnedDescriptor(CPlat_xdp_program(map.fd, takesPieces))
            // Kernels before 5.18 know of no pieces.
            if program.fd < 0 && takesPieces && errno == EINVAL { continue }
            if program.fd < 0 { throw refusal("bpf(BPF_PROG_LOAD)", errno) }
            let link = Retry.whileBusy { CPlat_xdp_attach(program.fd, interface.index, isNative) }
            if link >= 0 {
                return (OwnedDescriptor(link), isNative, takesPieces, refused == 0 ? "" : SystemError.text(refused))
            }
            refused = errno
            if refused == EBUSY || refused == EEXIST {
                throw EngineError(
                    """
                    interface \(interface.name) has an XDP program already, perhaps another Ringway's; \
                    `ip link show \(interface.name)` names it
                    """)
            }
            if refused == EPERM { break }
        }
        throw refusal("XDP on \(interface.name)", refused)
    }

    /// From now on `queue`'s frames go to `socket`, which is bound to it.
    func set(_ queue: Int, to socket: XDPSocket) throws(EngineError) {
        let code = CPlat_xdp_map_set(map.fd, UInt32(queue), socket.descriptor.fd)
        if code != 0 { throw XDPProgram.refusal("bpf(BPF_MAP_UPDATE_ELEM)", code) }
    }

    private static func refusal(_ what: String, _ code: Int32) -> EngineError {
        let hint = code == EPERM ? "; run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF" : ""
        return EngineError("\(what): \(SystemError.text(code))\(hint)")
    }
}
