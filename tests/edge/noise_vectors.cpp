// Reads "seed sample truncation count ranks k..." lines, prints words, doubles, floats and ranks as
// examples/cpp/noise.hpp computes them; test_noise_languages.py compares.
#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <string>

#include "noise.hpp"

int main() {
  std::uint64_t seed, sample;
  std::string truncation;
  std::size_t count, ranks;
  while (std::cin >> seed >> sample >> truncation >> count >> ranks) {
    const float t = std::stof(truncation);
    for (std::size_t i = 0; i < count; ++i) std::printf("%016" PRIx64 " ", icgan::philox_word(seed, sample, i));
    for (std::size_t i = 0; i < count; ++i) {
      std::printf("%.17g ", icgan::gaussian(icgan::uniform(icgan::philox_word(seed, sample, i)), t));
    }
    for (float z : icgan::noise(seed, sample, t, count)) std::printf("%.9g ", z);
    for (std::size_t i = 0; i < ranks; ++i) {
      std::uint64_t k;
      std::cin >> k;
      std::printf("%zu ", icgan::draw_rank(seed, sample, k));
    }
    std::printf("\n");
  }
}
