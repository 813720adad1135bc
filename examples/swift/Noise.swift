// The noise contract (docs/noise.md) in Swift: the same seed gives the same noise as Python, JavaScript, C++ and
// Kotlin. Tested against tests/golden/noise.json.
import Foundation

public enum Noise {
  /// For `truncation`: noise without a bound.
  public static let untruncated = Float.infinity

  /// Noise of picture `sample` of a request: `width` values (dim_z of the manifest) within ±2·truncation.
  ///
  /// `seed` and `sample` are not negative, `truncation` is in (0, 1] or `untruncated`; anything else is a
  /// programmer's error.
  public static func noise(seed: Int64, sample: Int64, truncation: Float, width: Int) -> [Float] {
    precondition(
      truncation > 0 && (truncation <= 1 || truncation == untruncated),
      "truncation \(truncation): more than 0 and at most 1, or untruncated")
    return (0..<width).map { index in
      Float(gaussian(uniform(philoxWord(seed: seed, sample: sample, index: index)), truncation: truncation))
    }
  }

  /// For condition "sample": which of the k nearest instances (0 = nearest; k ≤ 1024) conditions a picture.
  public static func drawRank(seed: Int64, sample: Int64, k: Int) -> Int {
    precondition((1...1024).contains(k), "k \(k): 1 to 1024")
    let word = philoxBlock([1, 0, 0, 1], key: key(seed, sample))[0]
    return Int(((word >> 11) * UInt64(k)) >> 53)
  }

  /// Word `index` of the stream with key (seed, sample); the counter of its first block is 1.
  public static func philoxWord(seed: Int64, sample: Int64, index: Int) -> UInt64 {
    philoxBlock([UInt64(index / 4 + 1), 0, 0, 0], key: key(seed, sample))[index % 4]
  }

  /// A word as a double in (0, 1).
  public static func uniform(_ word: UInt64) -> Double {
    min((Double(word >> 11) + 0.5) * 0x1p-53, 1 - 0x1p-53)
  }

  /// A uniform as a standard normal within ±2·truncation.
  public static func gaussian(_ u: Double, truncation: Float) -> Double {
    let bound = 2 * Double(truncation)
    let low = erfc(bound / 2.0.squareRoot()) / 2
    let high = erfc(-bound / 2.0.squareRoot()) / 2
    return min(max(normalQuantile(low + u * (high - low)), -bound), bound)
  }

  private static func key(_ seed: Int64, _ sample: Int64) -> (UInt64, UInt64) {
    precondition(seed >= 0, "seed \(seed): 0 to 2^63 - 1")
    precondition(sample >= 0, "sample \(sample): 0 to 2^63 - 1")
    return (UInt64(seed), UInt64(sample))
  }

  /// One block of Philox4x64-10 (Salmon et al. 2011).
  private static func philoxBlock(_ counter: [UInt64], key: (UInt64, UInt64)) -> [UInt64] {
    var (c, k0, k1) = (counter, key.0, key.1)
    for _ in 0..<10 {
      let left = (0xD2E7_470E_E14C_6C93 as UInt64).multipliedFullWidth(by: c[0])
      let right = (0xCA5A_8263_9512_1157 as UInt64).multipliedFullWidth(by: c[2])
      c = [right.high ^ c[1] ^ k0, right.low, left.high ^ c[3] ^ k1, left.low]
      k0 &+= 0x9E37_79B9_7F4A_7C15
      k1 &+= 0xBB67_AE85_84CA_A73B
    }
    return c
  }

  /// Φ⁻¹(p) for p in (0, 1): algorithm AS 241, routine PPND16 (Wichura 1988), about 16 digits.
  private static func normalQuantile(_ p: Double) -> Double {
    let q = p - 0.5
    if abs(q) <= 0.425 { return q * ratio(0.180625 - q * q, a, b) }
    let distance = (-log(min(p, 1 - p))).squareRoot()  // from the nearer end
    let tail = distance <= 5 ? ratio(distance - 1.6, c, d) : ratio(distance - 5, e, f)
    return q < 0 ? -tail : tail
  }

  /// Quotient of two polynomials by Horner's rule, coefficients from the constant up.
  private static func ratio(_ x: Double, _ above: [Double], _ below: [Double]) -> Double {
    func horner(_ coefficients: [Double]) -> Double { coefficients.reversed().reduce(0) { $0 * x + $1 } }
    return horner(above) / horner(below)
  }

  // Coefficients of AS 241, PPND16: |p - 0.5| ≤ 0.425, then the near tail, then the far tail.
  private static let a = [
    3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
    45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727,
  ]
  private static let b = [
    1.0, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077,
    21213.794301586595867, 39307.89580009271061, 28729.085735721942674, 5226.495278852854561,
  ]
  private static let c = [
    1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504,
    1.27045825245236838258, 0.24178072517745061177, 0.0227238449892691845833, 0.00077454501427834140764,
  ]
  private static let d = [
    1.0, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455,
    0.14810397642748007459, 0.0151986665636164571966, 0.00054759380849953445, 1.05075007164441684324e-9,
  ]
  private static let e = [
    6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358, 0.29656057182850489123,
    0.026532189526576123093, 0.0012426609473880784386, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
  ]
  private static let f = [
    1.0, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525,
    0.0007868691311456132591, 1.84631831751005468180e-5, 1.4215117583164458887e-7, 2.04426310338993978564e-15,
  ]
}
