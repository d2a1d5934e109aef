import Synchronization
import Testing
import Virtio

@Suite struct OwnedTableTests {
    private final class Counted {
        let number: Int
        let ended: Box
        init(_ number: Int, _ ended: Box) { (self.number, self.ended) = (number, ended) }
        deinit { ended.count += 1 }
    }
    private final class Box { var count = 0 }

    @Test("its values are made place by place, stay where they are, and end with it, each once")
    func values() {
        let ended = Box()
        do {
            let table = OwnedTable(count: 5) { Counted($0, ended) }
            #expect((0..<table.count).map { table[$0].number } == [0, 1, 2, 3, 4])
            #expect(UInt(bitPattern: table.start) % 128 == 0 && ended.count == 0)
        }
        #expect(ended.count == 5)
        let words = OwnedTable(count: 3) { Atomic(UInt32($0)) }
        words[1].wrappingAdd(5, ordering: .relaxed)
        #expect((0..<3).map { words[$0].load(ordering: .relaxed) } == [0, 6, 2])
    }

    @Test("a larger copy has the same values, then others; ranges are filled")
    func copies() {
        var table = OwnedTable<UInt16>([1, 2, 3])
        table[1] = 7
        var larger = table.copied(of: 6, filledWith: 9)
        #expect((0..<6).map { larger[$0] } == [1, 7, 3, 9, 9, 9])
        larger.fill(1..<5, with: 4)
        larger.fill(2..<2, with: 5)
        #expect((0..<6).map { larger[$0] } == [1, 4, 4, 4, 4, 9] && table[1] == 7)
        let zeroes = OwnedTable<UInt64>(zeroed: 4)
        #expect((0..<4).allSatisfy { zeroes[$0] == 0 })
    }
}
