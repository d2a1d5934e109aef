extension Plot {
    /// A line with markers at its points.
    public struct Series: Sendable {
        public var name: String
        public var points: [(x: Double, y: Double)]
        /// Without one, hues in the order of the series.
        public var colour: Colour?
        public var hasMarkers = true
        public var isDashed = false
        /// Drawn over the others.
        public var isBold = false
        /// Written beside the points, where there is room.
        public var labels: [String] = []
        /// A point apart from the line: a ring with a label.
        public var apart: (x: Double, y: Double, label: String)?
        public init(_ name: String, _ points: [(x: Double, y: Double)]) {
            self.name = name
            self.points = points
        }
    }

    /// Lines with markers; on logarithmic axes points at 0 stand at the axis' lower end. `subtitle` tells the
    /// conditions.
    public static func lines(title: String, subtitle: String = "", x: Axis, y: Axis, series: [Series]) -> String {
        var layout = LineLayout(x, y, series)
        var picture = Picture()
        let left = LineLayout.left
        let below = picture.paragraph(left, 26, title, width: layout.width - left - 16, size: 16)
        let end = picture.paragraph(
            left, below, subtitle, width: layout.width - left - 16, size: 12, colour: "#555555")
        layout.top = max(64, end - 2)
        guard layout.hasPoints else {
            picture.text(left, layout.top + 26, "no values")
            return picture.svg(layout.width, layout.top + 46)
        }
        layout.axes(&picture, x.title, y.title)
        for k in series.indices { layout.curve(&picture, k) }
        layout.markLabels(&picture)
        let bottom = max(layout.legend(&picture), layout.bottom + 62)
        return picture.svg(layout.width, bottom)
    }
}

/// Where the parts of line plots lie.
private struct LineLayout {
    static let (left, wide, high) = (78.0, 620.0, 380.0)
    let series: [Plot.Series]
    let rx: Ruler
    let ry: Ruler
    let width: Double
    let hasPoints: Bool
    /// Of the frame.
    var top = 64.0
    var bottom: Double { top + LineLayout.high }
    private let names: [[String]]

    init(_ x: Plot.Axis, _ y: Plot.Axis, _ series: [Plot.Series]) {
        self.series = series
        let points = series.flatMap { s in s.points + (s.apart.map { [($0.x, $0.y)] } ?? []) }
        hasPoints = !points.isEmpty
        (rx, ry) = (Ruler(x.scale, points.map(\.x)), Ruler(y.scale, points.map(\.y)))
        names = series.map { Picture.wrap($0.name, width: 260, size: 12) }
        let longest = names.joined().map { Picture.width($0, size: 12) }.max() ?? 0
        // Beside the frame: the legend, and half of the last label of the axis.
        width = LineLayout.left + LineLayout.wide + max(60, 52 + longest)
    }

    private func place(_ p: (x: Double, y: Double)) -> (x: Double, y: Double) {
        let (x, y) = (min(1, max(0, rx.place(p.x))), min(1, max(0, ry.place(p.y))))
        return (LineLayout.left + x * LineLayout.wide, bottom - y * LineLayout.high)
    }

    private func colour(_ k: Int) -> String { (series[k].colour ?? Plot.Colour(hue: k)).text }
    private func dash(_ k: Int) -> String { series[k].isDashed ? "6 4" : "" }

    func axes(_ picture: inout Picture, _ xTitle: String, _ yTitle: String) {
        let (left, right) = (LineLayout.left, LineLayout.left + LineLayout.wide)
        func px(_ v: Double) -> Double { place((v, ry.low)).x }
        func py(_ v: Double) -> Double { place((rx.low, v)).y }
        for v in ry.minor { picture.line(left, py(v), right, py(v), "#f0f0f0") }
        for v in rx.minor { picture.line(px(v), top, px(v), bottom, "#f0f0f0") }
        for t in ry.ticks {
            picture.line(left, py(t.value), right, py(t.value), "#d5d5d5")
            _ = picture.textIfFree(left - 7, py(t.value) + 4, t.label, anchor: .end)
        }
        for t in rx.ticks {
            picture.line(px(t.value), top, px(t.value), bottom, "#d5d5d5")
            _ = picture.textIfFree(px(t.value), bottom + 18, t.label, anchor: .middle)
        }
        picture.line(left, top, left, bottom, "#444444")
        picture.line(left, bottom, right, bottom, "#444444")
        picture.text(left + LineLayout.wide / 2, bottom + 44, xTitle, anchor: .middle, size: 13)
        picture.text(18, top + LineLayout.high / 2, yTitle, anchor: .middle, size: 13, turn: true)
    }

    func curve(_ picture: inout Picture, _ k: Int) {
        let s = series[k]
        let points = s.points.map(place)
        picture.polyline(points, colour(k), width: s.isBold ? 3.5 : 2, dash: dash(k))
        if s.hasMarkers { for p in points { picture.circle(p.x, p.y, s.isBold ? 5 : 3.5, colour(k)) } }
        if let a = s.apart {
            let p = place((a.x, a.y))
            picture.circle(p.x, p.y, 8, colour(k), isRing: true)
        }
    }

    /// Rings' labels come first, and may lie on markers. One that has room nowhere beside its point is left out.
    func markLabels(_ picture: inout Picture) {
        let frame = Box(x: LineLayout.left, y: top, width: LineLayout.wide, height: LineLayout.high)
        var marks: [Box] = []
        for s in series {
            marks += s.points.map(place).map { Box(x: $0.x - 3, y: $0.y - 3, width: 6, height: 6) }
            if let a = s.apart {
                let p = place((a.x, a.y))
                marks.append(Box(x: p.x - 9, y: p.y - 9, width: 18, height: 18))
            }
        }
        func label(_ p: (x: Double, y: Double), _ away: Double, _ text: String, _ colour: String, isNeeded: Bool) {
            if text.isEmpty { return }
            let places: [(Double, Double, Picture.Anchor)] = [
                (away - 3, -away + 2, .start), (away, 4, .start), (-away, 4, .end), (3 - away, -away + 2, .end),
                (0, -away - 2, .middle), (away - 3, away + 8, .start), (3 - away, away + 8, .end),
                (0, away + 10, .middle),
            ]
            let free = places.filter { dx, dy, anchor in
                let box = Picture.box(p.x + dx, p.y + dy, text, anchor, 11)
                return frame.holds(box) && !picture.labels.contains(where: box.overlaps)
            }
            let best = free.first { dx, dy, anchor in
                !marks.contains(where: Picture.box(p.x + dx, p.y + dy, text, anchor, 11).overlaps)
            }
            guard let (dx, dy, anchor) = best ?? (isNeeded ? free.first : nil) else { return }
            picture.text(p.x + dx, p.y + dy, text, anchor: anchor, size: 11, colour: colour)
        }
        for (k, s) in series.enumerated() {
            if let a = s.apart { label(place((a.x, a.y)), 12, a.label, colour(k), isNeeded: true) }
        }
        for (k, s) in series.enumerated() {
            for (p, text) in zip(s.points, s.labels) { label(place(p), 8, text, colour(k), isNeeded: false) }
        }
    }

    /// Right of the frame; returns where it ends.
    func legend(_ picture: inout Picture) -> Double {
        let left = LineLayout.left + LineLayout.wide + 14
        var y = top + 10
        for (k, lines) in names.enumerated() {
            picture.line(left, y, left + 24, y, colour(k), width: series[k].isBold ? 3.5 : 2, dash: dash(k))
            for (i, line) in lines.enumerated() { picture.text(left + 30, y + 4 + 15 * Double(i), line) }
            y += 20 + 15 * Double(max(0, lines.count - 1))
        }
        return y + 6
    }
}
