/// Eight places for addresses, as a table of addresses sees them when an address is new. What a bucket says may change
/// while it is asked.
protocol AddressBucket {
    /// The port whose address is at `place`, -1: it is free.
    func holder(_ place: Int) -> Int
    /// The second in which the address at `place` was last heard of.
    func heard(_ place: Int) -> UInt32
    /// The address at `place` stays, whatever comes.
    func isPinned(_ place: Int) -> Bool
}

extension AddressBucket {
    static var places: Int { 8 }

    /// Where a new address of `port` goes, -1: nowhere. A free or expired place, if the port may have one more
    /// (`hasRoom`: as far as the table goes; of a bucket it is half); else the place of its own oldest; else, if it is
    /// below its share, the oldest of the port that holds most.
    func choose(for port: Int, seconds: UInt32, ageing: UInt32, share: Int, hasRoom: Bool) -> Int {
        var (free, own, count, other, most) = (-1, -1, 0, -1, 0)
        var (ownAge, otherAge) = (UInt32.max, UInt32.max)
        for place in 0..<Self.places {
            let (holder, heard) = (holder(place), heard(place))
            if isPinned(place) {
                if holder == port { count &+= 1 }
            } else if holder < 0 || seconds > heard && seconds &- heard > ageing {
                if free < 0 { free = place }
            } else if holder == port {
                count &+= 1
                if own < 0 || heard < ownAge { (own, ownAge) = (place, heard) }
            } else {
                let held = held(by: holder)
                if held > most || held == most && heard < otherAge { (other, otherAge, most) = (place, heard, held) }
            }
        }
        let isAllowed = count < Self.places / 2 && hasRoom
        if free >= 0 && isAllowed { return free }
        if count < share && isAllowed && most > share { return other }
        return own
    }

    private func held(by port: Int) -> Int {
        var n = 0
        for place in 0..<Self.places where holder(place) == port { n &+= 1 }
        return n
    }
}
