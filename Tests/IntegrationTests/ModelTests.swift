import Testing

/// Tests/Models: the state machines of calls, kicks, hand-over between threads and upgrade, explored by spin.
@Suite(.serialized) struct ModelTests {
    @Test(
        "a model holds in every order of steps, and fails in each way in which it can be broken",
        arguments: [("calls", 8), ("kicks", 5), ("handover", 6), ("upgrade", 11)])
    func model(_ name: String, _ explorations: Int) throws {
        let program = try Program("models-\(name)", [root + "/tools/models", name])
        let status = program.wait(seconds: 300)
        #expect(status == 0, "\(program.output)")
        #expect(program.output.contains("\(explorations) explorations as expected, 0 not"), "\(program.output)")
    }
}
