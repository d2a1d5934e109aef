import Console
import Control
import Glibc
import Memory
import NIOCore
import NIOHTTP1
import NIOPosix
import VhostUser

/// Where metrics can be fetched by HTTP: a Unix socket, or an address with a port.
package enum MetricsPlace: Equatable, Sendable {
    case socket(SocketPlace)
    case address(String, port: Int)

    /// As `--metrics` takes it: `PATH[,mode=660][,group=NAME]`, `127.0.0.1:9095` or `[::1]:9095`.
    package init(_ text: String, option: String) throws(RPC.Failure) {
        if text.hasPrefix("/") {
            self = .socket(try SocketPlace(text, option: option))
            return
        }
        let colon = text.lastIndex(of: ":") ?? text.endIndex
        var host = String(text[..<colon])
        if host.hasPrefix("[") && host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        guard let port = Int(text[colon...].dropFirst()), (1...65_535).contains(port),
            (try? SocketAddress(ipAddress: host, port: port)) != nil
        else {
            throw .refused("\(option) \(text): write an address and a port as in 127.0.0.1:9095, or a socket's path")
        }
        self = .address(host, port: port)
    }

    /// As it was written.
    package var text: String {
        switch self {
        case .socket(let place): return place.text
        case .address(let host, let port): return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        }
    }

    /// Listens there; errors name the place. A program that confines itself does it before.
    package func open() throws -> Int32 {
        if case .socket(let place) = self {
            let fd = try Listener.open(place.path, place.access)
            Leftovers.add(socket: place.path)
            return fd
        }
        guard case .address(let host, let port) = self else { return -1 }
        let address = try SocketAddress(ipAddress: host, port: port)
        let family = host.contains(":") ? AF_INET6 : AF_INET
        let fd = Glibc.socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var yes: Int32 = 1
        // Else nobody could listen there for a while after the last one.
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        let status = address.withSockAddr { Glibc.bind(fd, $0, socklen_t($1)) }
        if status != 0 || Glibc.listen(fd, 16) != 0 {
            let code = errno
            Glibc.close(fd)
            throw RPC.Failure.refused("--metrics \(text): \(SystemError.text(code))")
        }
        return fd
    }

    /// Nil: it is an address.
    var socketPlace: SocketPlace? { if case .socket(let place) = self { return place } else { return nil } }

    /// Nobody outside of this machine can get there.
    package var isLocal: Bool {
        switch self {
        case .socket: return true
        case .address(let host, _): return host.hasPrefix("127.") || host == "::1"
        }
    }
}

/// Answers `GET /metrics`, on a thread of its own: whatever a client does, neither poll threads nor the control sockets
/// wait for it. A connection is for one request and ends with its answer. What one can take up is bounded: a request of
/// `longestRequest` bytes, `patience` for all of it, and `mostConnections`, of which the oldest yields.
final class MetricsServer: Sendable {
    static let longestRequest = 16_384
    static let mostConnections = 16
    static let patience = TimeAmount.seconds(10)

    /// Gives the text, on any thread, once it is asked for it.
    typealias Source = @Sendable (_ isOpenMetrics: Bool, _ give: @escaping @Sendable (String) -> Void) -> Void

    private let place: MetricsPlace
    /// Never shut down: that goes through libdispatch, which looks at its threads in /proc and traps where a sandbox
    /// does not let it.
    private static let group: MultiThreadedEventLoopGroup = {
        NIOSingletons.groupLoopCountSuggestion = 1
        return .singleton
    }()
    private let channel: any Channel
    private let connections = Connections()
    /// The socket that listens, for a process that goes on in this one's place.
    let listener: Int32

    /// `listener`: a socket that listens at the place; it is closed with this.
    init(_ place: MetricsPlace, _ listener: Int32, source: @escaping Source) throws {
        self.place = place
        self.listener = listener
        let connections = self.connections
        let bootstrap = ServerBootstrap(group: MetricsServer.group)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    connections.add(channel)
                    let end = channel.eventLoop.scheduleTask(in: MetricsServer.patience) {
                        channel.close(promise: nil)
                    }
                    channel.closeFuture.whenComplete { _ in end.cancel() }
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(RequestBound())
                    try pipeline.configureHTTPServerPipeline(withErrorHandling: true)
                    try pipeline.addHandler(MetricsHandler(source))
                }
            }
        do { channel = try bootstrap.withBoundSocket(listener).wait() } catch {
            throw RPC.Failure.refused("--metrics \(place.text): \(error)")
        }
    }

    /// Closes the socket and all connections. `settle` returns when what `source` was asked for has been given.
    func stop(removesFile: Bool, settle: () -> Void) {
        try? channel.close().wait()
        connections.closeAll()
        settle()
        if case .socket(let place) = place, removesFile {
            unlink(place.path)
            Leftovers.forget(socket: place.path)
        }
    }
}

/// Those that are open, the oldest first.
private final class Connections: Sendable {
    private let all = Locked<[any Channel]>([])

    func add(_ channel: any Channel) {
        let oldest = all.withLock { all -> (any Channel)? in
            all.append(channel)
            return all.count > MetricsServer.mostConnections ? all.removeFirst() : nil
        }
        oldest?.close(promise: nil)
        channel.closeFuture.whenComplete { [weak self] _ in
            self?.all.withLock { $0.removeAll { $0 === channel } }
        }
    }

    /// Returns when they are closed.
    func closeAll() { for channel in all.withLock({ $0 }) { try? channel.close().wait() } }
}

/// Ends a connection whose request is too long.
private final class RequestBound: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private var left = MetricsServer.longestRequest

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        left -= unwrapInboundIn(data).readableBytes
        if left < 0 { return context.close(promise: nil) }
        context.fireChannelRead(data)
    }
}

/// Answers one request.
private final class MetricsHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart
    private let source: MetricsServer.Source
    private var head: HTTPRequestHead?

    init(_ source: @escaping MetricsServer.Source) { self.source = source }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body: break
        case .end:
            guard let head else { return }
            self.head = nil
            answer(head, context)
        }
    }

    /// Whatever went wrong, the connection is of no more use.
    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func answer(_ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        let plain = "text/plain; charset=utf-8"
        guard head.method == .GET || head.method == .HEAD else {
            return say(.methodNotAllowed, "GET it\n", plain, context)
        }
        guard head.uri.prefix(while: { $0 != "?" }) == "/metrics" else {
            return say(.notFound, "metrics are at /metrics\n", plain, context)
        }
        let isOpenMetrics = head.headers["accept"].contains { $0.contains("application/openmetrics-text") }
        let type =
            isOpenMetrics
            ? "application/openmetrics-text; version=1.0.0; charset=utf-8" : "text/plain; version=0.0.4; charset=utf-8"
        let promise = context.eventLoop.makePromise(of: String.self)
        promise.futureResult.assumeIsolated().whenSuccess { text in
            self.say(.ok, text, type, context, hasBody: head.method == .GET)
        }
        source(isOpenMetrics) { promise.succeed($0) }
    }

    private func say(
        _ status: HTTPResponseStatus, _ text: String, _ type: String, _ context: ChannelHandlerContext,
        hasBody: Bool = true
    ) {
        let body = context.channel.allocator.buffer(string: text)
        let headers: HTTPHeaders = [
            "Content-Type": type, "Content-Length": "\(body.readableBytes)", "Connection": "close",
        ]
        context.write(wrapOutboundOut(.head(.init(version: .http1_1, status: status, headers: headers))), promise: nil)
        if hasBody { context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
        context.writeAndFlush(wrapOutboundOut(.end(nil))).assumeIsolated().whenComplete { _ in
            context.close(promise: nil)
        }
    }
}
