// Reads "seed sample truncation count ranks k..." lines, prints words, doubles, floats and ranks as
// examples/swift/Noise.swift computes them; test_noise_languages.py compares.
import Foundation

@main
struct NoiseVectors {
  static func main() {
    while let line = readLine() {
      let fields = line.split(separator: " ").map(String.init)
      let (seed, sample, truncation) = (Int64(fields[0])!, Int64(fields[1])!, Float(fields[2])!)
      let count = Int(fields[3])!
      let words = (0..<count).map { Noise.philoxWord(seed: seed, sample: sample, index: $0) }
      var said = words.map { String(repeating: "0", count: 16 - String($0, radix: 16).count) + String($0, radix: 16) }
      said += words.map { String(Noise.gaussian(Noise.uniform($0), truncation: truncation)) }
      said += Noise.noise(seed: seed, sample: sample, truncation: truncation, width: count).map { String($0) }
      said += fields.dropFirst(5).map { String(Noise.drawRank(seed: seed, sample: sample, k: Int($0)!)) }
      print(said.joined(separator: " "))
    }
  }
}
