import Glibc
import Synchronization

/// Descriptors that go to another process beside a document. In the document an `OwnedDescriptor` is its place here:
/// who encodes or decodes has the list in `userInfo`.
///
/// One thread at a time; the lock is for the compiler.
package final class DescriptorList: Sendable {
    private let list: Mutex<[OwnedDescriptor]>

    /// Those that came, when a document is to be read.
    package init(_ all: [OwnedDescriptor] = []) { list = Mutex(all) }

    /// Where encoders and decoders look for the list.
    package static let key = CodingUserInfoKey(rawValue: "ringway.descriptors")!

    package var all: [OwnedDescriptor] { list.withLock { $0 } }

    /// Its place; each object has one.
    fileprivate func place(of descriptor: OwnedDescriptor) -> Int {
        list.withLock { all in
            if let place = all.firstIndex(where: { $0 === descriptor }) { return place }
            all.append(descriptor)
            return all.count - 1
        }
    }
}

/// What a document says of descriptors.
private enum DescriptorError: Error, CustomStringConvertible {
    case noList
    case place(Int, of: Int)
    case copy(Int32)

    var description: String {
        switch self {
        case .noList: return "a descriptor is written or read without a list of descriptors"
        case .place(let place, let count): return "descriptor \(place) is named; \(count) came"
        case .copy(let code): return "a descriptor cannot be copied: \(SystemError.text(code))"
        }
    }
}

extension OwnedDescriptor: Codable {
    /// Its place in the list; -1: it is none.
    public func encode(to encoder: any Encoder) throws {
        guard let list = encoder.userInfo[DescriptorList.key] as? DescriptorList else { throw DescriptorError.noList }
        var container = encoder.singleValueContainer()
        try container.encode(fd < 0 ? -1 : list.place(of: self))
    }

    /// A copy of the one in the list, which may be named more than once.
    public convenience init(from decoder: any Decoder) throws {
        guard let list = decoder.userInfo[DescriptorList.key] as? DescriptorList else { throw DescriptorError.noList }
        let place = try decoder.singleValueContainer().decode(Int.self)
        if place == -1 {
            self.init(-1)
        } else {
            let all = list.all
            guard all.indices.contains(place) else { throw DescriptorError.place(place, of: all.count) }
            try self.init(copyOf: all[place].fd)
        }
    }

    /// A copy of a descriptor that stays its owner's.
    package convenience init(copyOf fd: Int32) throws { try self.init(OwnedDescriptor.copy(of: fd)) }

    /// A copy that is the caller's.
    package func copy() throws -> Int32 { try OwnedDescriptor.copy(of: fd) }

    private static func copy(of fd: Int32) throws -> Int32 {
        let copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)
        if copy < 0 { throw DescriptorError.copy(errno) }
        return copy
    }
}
