import Memory

/// The configuration interrupt: who is told, and whether the guest masks it.
struct ConfigurationInterrupt {
    /// The driver's.
    var notifier: OwnedDescriptor?
    var isMasked = false
    /// Fired while masked (vhost-user, where the message comes to us).
    var isPending = false
    /// Takes it while masked (vDPA).
    var masked: OwnedDescriptor?
}
