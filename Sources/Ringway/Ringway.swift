/// What an embedder imports: the engine with its options, the control plane and the ring core.
@_exported import Dataplane
@_exported import Headers
@_exported import Memory
@_exported import Tables
@_exported import Telemetry
@_exported import Vhost
@_exported import VhostUser
@_exported import Virtio
