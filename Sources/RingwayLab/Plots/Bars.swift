extension Plot {
    /// Bars in one place of each row, with what they stand for.
    public struct BarSeries: Sendable {
        public var name: String
        public var colour: Colour
        public init(_ name: String, _ colour: Colour) {
            self.name = name
            self.colour = colour
        }
    }

    /// Rows of bars under a title; `values` are in the order of the series, nil where there is none.
    public struct Panel: Sendable {
        public var title: String
        /// Of the axis below it.
        public var axis: String
        public var rows: [(label: String, values: [Double?])] = []
        public init(_ title: String, axis: String) {
            self.title = title
            self.axis = axis
        }
    }

    /// Horizontal bars, panels two by two, all on one scale. `mark`: a value with a line through all rows, at which
    /// bars begin on a logarithmic scale. `subtitle` tells what the values are.
    public static func bars(
        title: String, subtitle: String = "", scale: Scale, series: [BarSeries], panels: [Panel], mark: Double? = nil
    ) -> String {
        let panels = panels.filter { !$0.rows.isEmpty }
        let values = panels.flatMap(\.rows).flatMap { $0.values.compactMap { $0 } }
        let layout = BarLayout(
            series: series, ruler: Ruler(scale, values + (mark.map { [$0] } ?? [])), mark: mark, panels: panels)
        var picture = Picture()
        var y = picture.paragraph(16, 26, title, width: layout.width - 32, size: 16)
        y = picture.paragraph(16, y, subtitle, width: layout.width - 32, size: 12, colour: "#555555")
        if values.isEmpty {
            picture.text(16, y + 10, "no values")
            return picture.svg(layout.width, y + 30)
        }
        y = layout.legend(&picture, y)
        for row in stride(from: 0, to: panels.count, by: layout.columns) {
            let beside = panels[row..<min(row + layout.columns, panels.count)]
            for (k, panel) in beside.enumerated() { layout.draw(panel, &picture, layout.panelWidth * Double(k), y) }
            y += beside.map(layout.height).max() ?? 0
        }
        return picture.svg(layout.width, y)
    }
}

/// Where the parts of bar plots lie.
private struct BarLayout {
    private static let (bar, gap, plot) = (12.0, 7.0, 340.0)
    let series: [Plot.BarSeries]
    let ruler: Ruler
    let mark: Double?
    let columns: Int
    /// Of the row labels.
    let left: Double
    var panelWidth: Double { left + BarLayout.plot + 52 }
    var width: Double { max(560, panelWidth * Double(columns)) }

    init(series: [Plot.BarSeries], ruler: Ruler, mark: Double?, panels: [Plot.Panel]) {
        (self.series, self.ruler, self.mark) = (series, ruler, mark)
        columns = panels.count > 1 ? 2 : 1
        left = 26 + (panels.flatMap(\.rows).map { Picture.width($0.label, size: 12) }.max() ?? 0)
    }

    /// Returns where the panels begin.
    func legend(_ picture: inout Picture, _ y: Double) -> Double {
        var (x, y) = (16.0, y + 4)
        for s in series {
            let wide = 22 + Picture.width(s.name, size: 12)
            if x > 16 && x + wide > width { (x, y) = (16, y + 18) }
            picture.rectangle(Box(x: x, y: y - 10, width: 12, height: 12), s.colour.text)
            picture.text(x + 18, y, s.name)
            x += wide + 20
        }
        return y + 14
    }

    private func rowHeight(_ values: [Double?]) -> Double {
        max(16, Double(values.count { $0 != nil }) * BarLayout.bar) + BarLayout.gap
    }

    func height(_ panel: Plot.Panel) -> Double { 90 + panel.rows.reduce(0) { $0 + rowHeight($1.values) } }

    private func x(_ v: Double) -> Double { left + min(1, max(0, ruler.place(v))) * BarLayout.plot }

    func draw(_ panel: Plot.Panel, _ picture: inout Picture, _ x0: Double, _ y0: Double) {
        let (top, bottom) = (y0 + 32, y0 + 32 + panel.rows.reduce(0) { $0 + rowHeight($1.values) } + 4)
        picture.text(x0 + left, y0 + 22, panel.title, size: 14)
        for v in ruler.minor { picture.line(x0 + x(v), top, x0 + x(v), bottom, "#f0f0f0") }
        for t in ruler.ticks {
            picture.line(x0 + x(t.value), top, x0 + x(t.value), bottom, "#d5d5d5")
            _ = picture.textIfFree(x0 + x(t.value), bottom + 15, t.label, anchor: .middle, size: 11)
        }
        picture.line(x0 + left, bottom, x0 + left + BarLayout.plot, bottom, "#444444")
        picture.text(x0 + left + BarLayout.plot / 2, bottom + 34, panel.axis, anchor: .middle, size: 12)
        let start = ruler.scale == .log ? x0 + x(mark ?? ruler.low) : x0 + left
        var y = top + BarLayout.gap
        for row in panel.rows {
            let count = Double(row.values.count { $0 != nil })
            picture.text(x0 + left - 8, y + max(16, count * BarLayout.bar) / 2 + 4, row.label, anchor: .end)
            for (k, value) in row.values.enumerated() {
                guard let value else { continue }
                let end = x0 + x(value)
                picture.rectangle(
                    Box(x: min(start, end), y: y, width: abs(end - start), height: BarLayout.bar - 1),
                    series[k].colour.text)
                // Right of both ends, so that it never runs into the row's label.
                picture.text(max(start, end) + 4, y + 9, Plot.fixed(value, value < 100 ? 2 : 0), size: 10)
                y += BarLayout.bar
            }
            y += BarLayout.gap + max(0, 16 - count * BarLayout.bar)
        }
        if let mark { picture.line(x0 + x(mark), top, x0 + x(mark), bottom + 4, "#000000", width: 1.5) }
    }
}
