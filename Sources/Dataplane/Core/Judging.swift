/// What poll threads judge packets by: what they are told, so that they need no lock.
struct Judging {
    /// What the function says of itself, where that is not what its type says.
    var traits: FunctionTraits?
    /// Those that run.
    var captures: [CaptureOrder] = []
    /// The switch's, of one kind or the other; neither in other modes.
    var addresses: MACTable?
    var guarded: SwitchCore?
}
