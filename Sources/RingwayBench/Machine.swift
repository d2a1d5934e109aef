import Console
import Foundation
import RingwayLab

/// What a measurement was made on.
enum Machine {
    static var summary: String {
        let info = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        let model = info.split(separator: "\n").first { $0.hasPrefix("model name") }?.split(separator: ":").last.map {
            $0.trimmingCharacters(in: .whitespaces)
        }
        return "\(model ?? "unknown CPU"), \(Bench.allowedCPUs.count) CPUs"
    }
}

/// Writes a report's file, or ends the program with its path and the reason.
func writeFile(_ path: String, _ text: String) {
    do { try text.write(toFile: path, atomically: true, encoding: .utf8) } catch {
        fail("\(path): \(error.localizedDescription)")
    }
}
