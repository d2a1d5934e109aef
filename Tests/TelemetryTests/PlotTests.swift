import RingwayLab
import Telemetry
import Testing

/// Where a text of an SVG picture lies, by a font as wide as DejaVu Sans is on average.
private struct Label {
    let text: String
    let left, top, right, bottom: Double

    func overlaps(_ o: Label) -> Bool { left < o.right && o.left < right && top < o.bottom && o.top < bottom }
}

/// An element without children: its attributes, and its text.
private struct Element {
    let text: String
    private let attributes: [String: String]

    subscript(_ name: String) -> String { attributes[name] ?? "" }
    func number(_ name: String) -> Double { Double(self[name]) ?? .nan }

    static func all(_ name: String, in svg: String) -> [Element] {
        svg.split(separator: "<\(name) ", omittingEmptySubsequences: false).dropFirst().map { part in
            let head = part.prefix { $0 != ">" }
            let words = head.split(separator: "\"").map(String.init)
            var attributes: [String: String] = [:]
            for i in stride(from: 0, to: words.count - 1, by: 2) {
                attributes[words[i].filter { $0 != " " && $0 != "=" }] = words[i + 1]
            }
            return Element(
                text: String(part.dropFirst(head.count + 1).prefix { $0 != "<" }), attributes: attributes)
        }
    }
}

/// What of an SVG picture can be looked at: its size, its labels.
private struct Drawing {
    let labels: [Label]
    let width: Double
    let height: Double

    init(_ svg: String) throws {
        let view = try #require(Element.all("svg", in: svg).first)["viewBox"].split(separator: " ").map(String.init)
        (width, height) = (try #require(Double(view[2])), try #require(Double(view[3])))
        labels = Element.all("text", in: svg).map { e in
            let (x, y, size) = (e.number("x"), e.number("y"), e.number("font-size"))
            let long = Double(e.text.count) * size * 0.6
            let before = ["start": 0, "middle": long / 2, "end": long][e["text-anchor"]] ?? .nan
            if e["transform"].isEmpty {
                return Label(
                    text: e.text, left: x - before, top: y - 0.76 * size, right: x - before + long,
                    bottom: y + 0.2 * size)
            }
            // Turned to the left.
            return Label(
                text: e.text, left: x - 0.76 * size, top: y + before - long, right: x + 0.2 * size, bottom: y + before)
        }
    }

    /// What is wrong with the labels.
    var complaints: [String] {
        var all = labels.filter { $0.left < 0 || $0.top < 0 || $0.right > width || $0.bottom > height }.map {
            "'\($0.text)' is not wholly inside"
        }
        for (i, a) in labels.enumerated() {
            for b in labels[(i + 1)...] where a.overlaps(b) { all.append("'\(a.text)' over '\(b.text)'") }
        }
        return all
    }

    func has(_ text: String) -> Bool { labels.contains { $0.text == text } }
}

@Suite struct PlotTests {
    @Test("a plot has its title, axes with units, a legend entry for each line, and every point inside the frame")
    func lines() {
        var curve = Plot.Series("10 k/s", [(50, 0.3), (99, 12), (99.999, 4000)])
        curve.labels = ["a<b"]
        let svg = Plot.lines(
            title: "Latency", subtitle: "macswap", x: .init("packets", .percentile), y: .init("µs", .log),
            series: [curve, .init("100 k/s", [(50, 0.2), (99.9, 40)])])
        for text in [
            "Latency", "macswap", "packets", "µs", "10 k/s", "100 k/s", ">99 %<", ">99.999 %<", "a&lt;b", ">1 k<",
        ] { #expect(svg.contains(text), "\(text)") }
        for part in svg.split(separator: "points=\"").dropFirst() {
            for point in part.prefix(while: { $0 != "\"" }).split(separator: " ") {
                let xy = point.split(separator: ",").compactMap { Double($0) }
                #expect(xy.count == 2 && xy[0] >= 78 && xy[0] <= 698 && xy[1] >= 64 && xy[1] <= 444, "\(point)")
            }
        }
        #expect(svg.hasPrefix("<svg") && svg.hasSuffix("</svg>\n"))
        #expect(Plot.lines(title: "t", x: .init("", .log), y: .init("", .log), series: []).contains("no values"))
    }

    private static let long = String(repeating: "a name that goes on and on ", count: 12)

    @Test(
        "labels of bar plots lie inside the picture and not over one another: 1, 3 and 45 cases, short and long names",
        arguments: [1, 3, 45], ["split 64", "packed-in-order imix 8q burst 512, and more than that"])
    func bars(_ cases: Int, _ name: String) throws {
        let series = ["DPDK", "OVS"].enumerated().flatMap { hue, side in
            [
                Plot.BarSeries("\(side): packets a second", .init(hue: hue)),
                Plot.BarSeries("\(side): cycles a packet", .init(hue: hue, shade: 1)),
            ]
        }
        var panels: [Plot.Panel] = []
        for i in 0..<cases {
            if i % 12 == 0 { panels.append(Plot.Panel("mode \(i / 12)", axis: "ratio to DPDK")) }
            let far = [0.51, 0.97, 1, 1.003, 1.2, 10.47, 0.083][i % 7]
            panels[i / 12].rows.append(("\(name) \(i)", i % 3 == 0 ? [far, 1 / far, nil, nil] : [far, 2, 1, 1 / far]))
        }
        for title in ["Ringway beside DPDK", PlotTests.long] {
            let drawing = try Drawing(
                Plot.bars(title: title, subtitle: title, scale: .log, series: series, panels: panels, mark: 1))
            #expect(drawing.complaints == [])
            #expect((0..<cases).allSatisfy { drawing.has("\(name) \($0)") } && drawing.has("ratio to DPDK"))
            // On one screen each, nearly: panels stand beside one another.
            #expect(drawing.height < 1600)
        }
    }

    @Test("a bar plot's line at 1 stands where its axis says 1, and bars of more and of less than 1 begin at it")
    func mark() throws {
        var panel = Plot.Panel("drop", axis: "ratio")
        panel.rows = [("a", [2]), ("b", [0.5])]
        let svg = Plot.bars(
            title: "t", scale: .log, series: [.init("s", .init(hue: 0))], panels: [panel], mark: 1)
        let one = try #require(Element.all("text", in: svg).first { $0.text == "1" }).number("x")
        // After the background and the legend's.
        let bars = Element.all("rect", in: svg).dropFirst(2).map {
            ($0.number("x"), $0.number("x") + $0.number("width"))
        }
        #expect(bars.count == 2 && abs(bars[0].0 - one) < 0.2 && bars[0].1 > one + 20, "\(bars)")
        #expect(abs(bars[1].1 - one) < 0.2 && bars[1].0 < one - 20, "\(bars)")
        let lines = Element.all("line", in: svg).filter { $0["stroke"] == "#000000" }
        #expect(lines.count == 1 && abs(lines[0].number("x1") - one) < 0.2)
    }

    @Test(
        "labels of line plots lie inside the picture and not over one another: points in all corners and in a crowd",
        arguments: [1, 3, 45], ["1 M/s", long])
    func labels(_ count: Int, _ name: String) throws {
        let series = (0..<count).map { k in
            let low = 0.5 + Double(k) / 100
            var s = Plot.Series(
                "\(name) \(k)", [(0, low), (50, 20), (99.9, 49 - low), (99.95, 3), (100, low), (100, 50)])
            s.labels = ["0", "50", "auto", "poll", "a corner", "another corner"]
            s.apart = (k % 2 == 0 ? 100 : 0, 50 - low, "auto")
            return s
        }
        for (x, y) in [(Plot.Scale.linear, Plot.Scale.log), (.log, .linear), (.percentile, .log)] {
            let drawing = try Drawing(
                Plot.lines(
                    title: name, subtitle: name, x: .init("packets that took at most this long", x),
                    y: .init("p99, µs", y), series: series))
            #expect(drawing.complaints == [])
            #expect(drawing.labels.contains { $0.text == "auto" }, "no room for any ring's label")
        }
    }

    @Test("one side's lines have one hue in shades of their own; another side's have another")
    func colours() throws {
        func colours(_ hues: [Int]) -> [Substring] {
            let series = hues.enumerated().map { k, hue in
                var s = Plot.Series("s\(k)", [(1, 1), (2, 2)])
                s.colour = .init(hue: hue, shade: k)
                return s
            }
            let svg = Plot.lines(title: "", x: .init("", .linear), y: .init("", .linear), series: series)
            return svg.split(separator: "<polyline fill=\"none\" stroke=\"").dropFirst().map { $0.prefix(7) }
        }
        let (one, other) = (colours([0, 0, 0]), colours([1, 1, 1]))
        #expect(Set(one + other).count == 6)
        for (all, isBlue) in [(one, true), (other, false)] {
            for c in all {
                let rgb = try #require(Int(c.dropFirst(), radix: 16))
                #expect((rgb & 255 > rgb >> 16) == isBlue, "\(c)")
            }
        }
    }
}
