import CRingway
import Ringway

extension ringway_address {
    fileprivate init(_ address: TableAddress) {
        self.init()
        withUnsafeBytes(of: address.mac.rawValue.littleEndian) { bytes in
            withUnsafeMutableBytes(of: &mac) { $0.copyBytes(from: bytes.prefix(6)) }
        }
        vlan = address.vlan ?? UInt16(RINGWAY_ANY_VLAN)
        port = UInt32(truncatingIfNeeded: address.port)
        age = UInt32(clamping: address.age)
        switch address.kind {
        case .learned: kind = RINGWAY_LEARNED.rawValue
        case .sticky: kind = RINGWAY_STICKY.rawValue
        case .permanent: kind = RINGWAY_STATIC.rawValue
        }
    }
}

@c @implementation
public func ringway_engine_addresses(
    _ engine: OpaquePointer!, _ out: UnsafeMutablePointer<ringway_address>!, _ room: Int
) -> Int32 {
    var count: Int32 = 0
    let code = outsideAnswer("ringway_engine_addresses") {
        let all = try Handles.all.find(engine, CEngine.self, "engine").addresses()
        if out == nil && room != 0 { throw CFailure(RINGWAY_ERROR_ARGUMENT, "out is NULL") }
        // `room` is a size_t: above the half of its range it looks negative here.
        for (i, address) in all.prefix(room < 0 ? all.count : room).enumerated() {
            (out + i).initialize(to: ringway_address(address))
        }
        count = Int32(clamping: all.count)
    }
    return code < 0 ? code : count
}

@c @implementation
public func ringway_engine_clear_addresses(_ engine: OpaquePointer!, _ port: UInt32, _ vlan: UInt16) -> Int32 {
    var count: Int32 = 0
    let code = outsideAnswer("ringway_engine_clear_addresses") {
        let object = try Handles.all.find(engine, CEngine.self, "engine")
        let isAnyVLAN = vlan == UInt16(RINGWAY_ANY_VLAN)
        if !isAnyVLAN && vlan > 4095 { throw CFailure(RINGWAY_ERROR_RANGE, "vlan \(vlan): 4095 is the last one") }
        count = try object.clearAddresses(port: port == UInt32.max ? nil : Int(port), vlan: isAnyVLAN ? nil : vlan)
    }
    return code < 0 ? code : count
}
