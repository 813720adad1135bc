// The noise contract (docs/noise.md) in C++17: the same seed gives the same noise as Python and JavaScript.
// Tested against tests/golden/noise.json. Needs a compiler with unsigned __int128 (GCC, Clang).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace icgan {

using Words = std::array<std::uint64_t, 4>;

inline constexpr float kUntruncated = std::numeric_limits<float>::infinity();

// One block of Philox4x64-10 (Salmon et al. 2011).
inline Words philox_block(Words c, std::uint64_t k0, std::uint64_t k1) {
  using Wide = unsigned __int128;
  for (int round = 0; round < 10; ++round) {
    const Wide left = Wide{0xD2E7470EE14C6C93u} * c[0];
    const Wide right = Wide{0xCA5A826395121157u} * c[2];
    c = {static_cast<std::uint64_t>(right >> 64) ^ c[1] ^ k0, static_cast<std::uint64_t>(right),
         static_cast<std::uint64_t>(left >> 64) ^ c[3] ^ k1, static_cast<std::uint64_t>(left)};
    k0 += 0x9E3779B97F4A7C15u;
    k1 += 0xBB67AE8584CAA73Bu;
  }
  return c;
}

// Word `index` of the stream with key (seed, sample); the counter of its first block is 1.
inline std::uint64_t philox_word(std::uint64_t seed, std::uint64_t sample, std::size_t index) {
  return philox_block({index / 4 + 1, 0, 0, 0}, seed, sample)[index % 4];
}

// A word as a double in (0, 1).
inline double uniform(std::uint64_t word) {
  return std::min((static_cast<double>(word >> 11) + 0.5) * 0x1p-53, 1.0 - 0x1p-53);
}

// Quotient of two polynomials by Horner's rule, coefficients from the constant up.
inline double ratio(double x, const std::array<double, 8>& above, const std::array<double, 8>& below) {
  double top = above[7], bottom = below[7];
  for (int i = 6; i >= 0; --i) {
    top = top * x + above[i];
    bottom = bottom * x + below[i];
  }
  return top / bottom;
}

// The inverse of the normal distribution function for p in (0, 1): AS 241, PPND16 (Wichura 1988).
inline double normal_quantile(double p) {
  const double q = p - 0.5;
  if (std::abs(q) <= 0.425) {
    return q * ratio(0.180625 - q * q,
                     {3.387132872796366608, 133.14166789178437745, 1971.5909503065514427,
                      13731.693765509461125, 45921.953931549871457, 67265.770927008700853,
                      33430.575583588128105, 2509.0809287301226727},
                     {1, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077,
                      21213.794301586595867, 39307.89580009271061, 28729.085735721942674,
                      5226.495278852854561});
  }
  const double distance = std::sqrt(-std::log(std::min(p, 1 - p)));  // from the nearer end
  const double tail =
      distance <= 5
          ? ratio(distance - 1.6,
                  {1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055,
                   3.64784832476320460504, 1.27045825245236838258, 0.24178072517745061177,
                   0.0227238449892691845833, 0.00077454501427834140764},
                  {1, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455,
                   0.14810397642748007459, 0.0151986665636164571966, 0.00054759380849953445,
                   1.05075007164441684324e-9})
          : ratio(distance - 5,
                  {6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358,
                   0.29656057182850489123, 0.026532189526576123093, 0.0012426609473880784386,
                   2.71155556874348757815e-5, 2.01033439929228813265e-7},
                  {1, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525,
                   0.0007868691311456132591, 1.84631831751005468180e-5, 1.4215117583164458887e-7,
                   2.04426310338993978564e-15});
  return std::copysign(tail, q);
}

// A uniform as a standard normal within ±2·truncation (kUntruncated: anywhere).
inline double gaussian(double u, float truncation) {
  const double bound = 2.0 * truncation;
  const double low = 0.5 * std::erfc(bound / std::sqrt(2.0));
  const double high = 0.5 * std::erfc(-bound / std::sqrt(2.0));
  return std::clamp(normal_quantile(low + u * (high - low)), -bound, bound);
}

// Noise of picture `sample` of a request: `width` values (dim_z of the manifest), truncation in (0, 1].
inline std::vector<float> noise(std::uint64_t seed, std::uint64_t sample, float truncation,
                                std::size_t width) {
  std::vector<float> z(width);
  for (std::size_t i = 0; i < width; ++i) {
    z[i] = static_cast<float>(gaussian(uniform(philox_word(seed, sample, i)), truncation));
  }
  return z;
}

// For condition "sample": which of the k nearest instances (0 = nearest) conditions a picture.
inline std::size_t draw_rank(std::uint64_t seed, std::uint64_t sample, std::uint64_t k) {
  const std::uint64_t word = philox_block({1, 0, 0, 1}, seed, sample)[0];
  return ((word >> 11) * k) >> 53;
}

}  // namespace icgan
