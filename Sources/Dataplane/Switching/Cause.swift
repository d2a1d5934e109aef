/// Places of the causes among `GuardedSwitch.dropCauses`.
enum Cause {
    static var malformed: Int { 0 }
    static var vlan: Int { 1 }
    static var innerTag: Int { 2 }
    static var rate: Int { 3 }
    static var storm: Int { 4 }
    static var spoofedSource: Int { 5 }
    static var spoofedIP: Int { 6 }
    static var spoofedNeighbour: Int { 7 }
    static var tooMany: Int { 8 }
    static var elsewhere: Int { 9 }
    static var isolated: Int { 10 }
    static var samePort: Int { 11 }
    static var noPort: Int { 12 }
    static var mirror: Int { 13 }
    static var notCopied: Int { 14 }
}
