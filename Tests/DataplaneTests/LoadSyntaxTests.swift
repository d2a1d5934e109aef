import Ringway
import RingwayLab
import Testing

@Suite struct LoadSyntaxTests {
    @Test("rates: packets a second, with k and M, percent, full")
    func rates() throws {
        #expect(
            try LoadSyntax.rates("10000,10k, 1.5M,50%") == [
                .packets(10_000), .packets(10_000), .packets(1_500_000), .share(0.5),
            ])
        #expect(try LoadSyntax.rates("full", allowsFull: true) == [.full])
        #expect(LoadSyntax.Rate.share(0.9).packets(lossless: 1000) == 900)
        for bad in ["", "0", "x", "101%", "0%", "10,,20", "1e12", "full", "-5", "nan"] {
            #expect(throws: EngineError.self, "\(bad)") { try LoadSyntax.rates(bad) }
        }
    }

    @Test("imix is 7 : 4 : 1 of 64, 570 and 1518 bytes")
    func sizes() throws {
        let imix = try LoadSyntax.sizes("imix")
        #expect([64, 570, 1518].map { size in imix.filter { $0 == size }.count } == [7, 4, 1])
        #expect(try LoadSyntax.sizes("1518") == [1518])
        for bad in ["59", "9217", "", "-1"] { #expect(throws: EngineError.self) { try LoadSyntax.sizes(bad) } }
    }
}
