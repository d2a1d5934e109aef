/// Where something lies in a picture, in its units (pixels at 100 %).
struct Box {
    var x: Double
    var y: Double
    var width: Double
    var height: Double

    func overlaps(_ o: Box) -> Bool {
        x < o.x + o.width && o.x < x + width && y < o.y + o.height && o.y < y + height
    }
    func holds(_ o: Box) -> Bool {
        o.x >= x && o.y >= y && o.x + o.width <= x + width && o.y + o.height <= y + height
    }
}

/// An SVG picture while it is drawn.
struct Picture {
    enum Anchor: String {
        case start
        case middle
        case end
    }

    private var body = ""
    /// Where labels are.
    private(set) var labels: [Box] = []

    /// What a text takes at most: fonts differ, and none is asked.
    static func width(_ text: String, size: Double) -> Double { Double(text.count) * size * 0.66 }

    static func box(_ x: Double, _ y: Double, _ text: String, _ anchor: Anchor, _ size: Double) -> Box {
        let width = width(text, size: size)
        let left = anchor == .start ? x : anchor == .middle ? x - width / 2 : x - width
        return Box(x: left, y: y - size * 0.8, width: width, height: size * 1.05)
    }

    private static func escape(_ text: String) -> String {
        text.reduce(into: "") { out, c in
            switch c {
            case "&": out += "&amp;"
            case "<": out += "&lt;"
            case ">": out += "&gt;"
            case "\"": out += "&quot;"
            default: out.append(c)
            }
        }
    }

    static func f(_ v: Double) -> String { Plot.fixed(v, 1) }

    /// A label whose base line is at `y`.
    mutating func text(
        _ x: Double, _ y: Double, _ text: String, anchor: Anchor = .start, size: Double = 12,
        colour: String = "#222222", turn: Bool = false
    ) {
        if text.isEmpty { return }
        var box = Picture.box(x, y, text, anchor, size)
        if turn { box = Box(x: x - size * 0.8, y: y - box.width / 2, width: size * 1.05, height: box.width) }
        labels.append(box)
        // The white rim keeps it readable on a line.
        body +=
            "<text x=\"\(Picture.f(x))\" y=\"\(Picture.f(y))\" font-family=\"DejaVu Sans, Verdana, sans-serif\" "
            + "font-size=\"\(Picture.f(size))\" fill=\"\(colour)\" text-anchor=\"\(anchor.rawValue)\" "
            + "stroke=\"white\" stroke-width=\"3\" stroke-linejoin=\"round\" paint-order=\"stroke\""
            + (turn ? " transform=\"rotate(-90 \(Picture.f(x)) \(Picture.f(y)))\"" : "")
            + ">\(Picture.escape(text))</text>\n"
    }

    /// The same where no label is yet; false, and nothing drawn, where one is.
    mutating func textIfFree(
        _ x: Double, _ y: Double, _ text: String, anchor: Anchor = .start, size: Double = 12,
        colour: String = "#222222"
    ) -> Bool {
        let box = Picture.box(x, y, text, anchor, size)
        if labels.contains(where: box.overlaps) { return false }
        self.text(x, y, text, anchor: anchor, size: size, colour: colour)
        return true
    }

    /// Text in lines of at most `width`; returns where the next line would be.
    mutating func paragraph(
        _ x: Double, _ y: Double, _ text: String, width: Double, size: Double, colour: String = "#222222"
    ) -> Double {
        var y = y
        for line in Picture.wrap(text, width: width, size: size) {
            self.text(x, y, line, size: size, colour: colour)
            y += size * 1.35
        }
        return y
    }

    static func wrap(_ text: String, width: Double, size: Double) -> [String] {
        let most = max(8, Int(width / (size * 0.66)))
        var lines: [String] = []
        for word in text.split(separator: " ") {
            var word = word[...]
            if let last = lines.last, last.count + 1 + word.count <= most {
                lines[lines.count - 1] += " " + word
                continue
            }
            // A word that no line holds is cut.
            while word.count > most {
                lines.append(String(word.prefix(most)))
                word = word.dropFirst(most)
            }
            if !word.isEmpty { lines.append(String(word)) }
        }
        return lines
    }

    mutating func line(
        _ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ colour: String, width: Double = 1, dash: String = ""
    ) {
        body += "<line x1=\"\(Picture.f(x1))\" y1=\"\(Picture.f(y1))\" x2=\"\(Picture.f(x2))\" y2=\"\(Picture.f(y2))\" "
        body += Picture.stroke(colour, width, dash) + "/>\n"
    }

    mutating func polyline(_ points: [(x: Double, y: Double)], _ colour: String, width: Double, dash: String) {
        let all = points.map { "\(Picture.f($0.x)),\(Picture.f($0.y))" }.joined(separator: " ")
        body += "<polyline fill=\"none\" " + Picture.stroke(colour, width, dash) + " points=\"\(all)\"/>\n"
    }

    mutating func rectangle(_ box: Box, _ colour: String) {
        body += "<rect x=\"\(Picture.f(box.x))\" y=\"\(Picture.f(box.y))\" width=\"\(Picture.f(box.width))\" "
        body += "height=\"\(Picture.f(box.height))\" fill=\"\(colour)\"/>\n"
    }

    /// Filled, or a ring.
    mutating func circle(_ x: Double, _ y: Double, _ radius: Double, _ colour: String, isRing: Bool = false) {
        body += "<circle cx=\"\(Picture.f(x))\" cy=\"\(Picture.f(y))\" r=\"\(Picture.f(radius))\" "
        body += isRing ? "fill=\"none\" " + Picture.stroke(colour, 2.5, "") + "/>\n" : "fill=\"\(colour)\"/>\n"
    }

    private static func stroke(_ colour: String, _ width: Double, _ dash: String) -> String {
        "stroke=\"\(colour)\" stroke-width=\"\(f(width))\"" + (dash.isEmpty ? "" : " stroke-dasharray=\"\(dash)\"")
    }

    func svg(_ width: Double, _ height: Double) -> String {
        let (w, h) = (Picture.f(width.rounded(.up)), Picture.f(height.rounded(.up)))
        return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"\(w)\" height=\"\(h)\" viewBox=\"0 0 \(w) \(h)\">\n"
            + "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n" + body + "</svg>\n"
    }
}
