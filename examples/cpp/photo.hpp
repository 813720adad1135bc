// A JPEG file -> the encoder's input: upright, its middle square, and the antialiased bilinear reduction that the model
// was trained with, with the bytes that Pillow's BILINEAR gives. A colour profile in the file is not followed: take
// photos in sRGB, as phones and cameras write them unless told otherwise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <jpeglib.h>

namespace icgan {

struct Photo {
  std::size_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  // [height, width, 3]
};

// Which way is up (1 to 8) by the EXIF block of a file; 1 where it does not say.
inline int orientation(const jpeg_decompress_struct& jpeg) {
  for (auto marker = jpeg.marker_list; marker; marker = marker->next) {
    const JOCTET* data = marker->data;
    const std::size_t size = marker->data_length;
    if (marker->marker != JPEG_APP0 + 1 || size < 14 || std::memcmp(data, "Exif\0\0", 6) != 0) continue;
    const bool little = data[6] == 'I';
    const auto number = [&](std::size_t at, int bytes) {
      std::size_t value = 0;
      for (int i = 0; i < bytes; ++i) value |= std::size_t{data[at + (little ? i : bytes - 1 - i)]} << (8 * i);
      return value;
    };
    const std::size_t table = 6 + number(10, 4);
    if (table + 2 > size) continue;
    for (std::size_t entry = table + 2, left = number(table, 2); left > 0 && entry + 12 <= size; entry += 12, --left) {
      const std::size_t value = number(entry + 8, 2);
      if (number(entry, 2) == 0x0112 && value >= 1 && value <= 8) return static_cast<int>(value);
    }
  }
  return 1;
}

// The photo with its top at the top: 1 to 8 say where EXIF's first line and column lie.
inline Photo upright(Photo photo, int orientation) {
  if (orientation == 1) return photo;
  const bool turned = orientation > 4;
  Photo out{turned ? photo.height : photo.width, turned ? photo.width : photo.height, {}};
  out.rgb.resize(photo.rgb.size());
  for (std::size_t y = 0; y < out.height; ++y) {
    for (std::size_t x = 0; x < out.width; ++x) {
      std::size_t column = turned ? y : x, line = turned ? x : y;
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) column = photo.width - 1 - column;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) line = photo.height - 1 - line;
      std::memcpy(&out.rgb[(y * out.width + x) * 3], &photo.rgb[(line * photo.width + column) * 3], 3);
    }
  }
  return out;
}

// Throws for what is no JPEG file in grey or colour.
inline Photo read_jpeg(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw std::runtime_error(path + " cannot be read");
  jpeg_error_mgr errors{};
  jpeg_decompress_struct jpeg{};
  jpeg.err = jpeg_std_error(&errors);
  errors.error_exit = [](j_common_ptr failed) {
    char words[JMSG_LENGTH_MAX];
    failed->err->format_message(failed, words);
    throw std::runtime_error(words);
  };
  errors.output_message = [](j_common_ptr) {};  // warnings: counted, and told below
  jpeg_create_decompress(&jpeg);
  const std::unique_ptr<jpeg_decompress_struct, void (*)(j_decompress_ptr)> owner(&jpeg, jpeg_destroy_decompress);
  try {
    jpeg_stdio_src(&jpeg, file.get());
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    Photo photo{jpeg.output_width, jpeg.output_height, {}};
    photo.rgb.resize(photo.width * photo.height * 3);
    while (jpeg.output_scanline < jpeg.output_height) {
      JSAMPROW row = &photo.rgb[jpeg.output_scanline * photo.width * 3];
      jpeg_read_scanlines(&jpeg, &row, 1);
    }
    if (errors.num_warnings > 0) throw std::runtime_error("the file is damaged or cut short");
    return upright(std::move(photo), orientation(jpeg));
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

// Which inputs, with which integer weights, make one output: a triangle as wide as the reduction.
struct Window {
  std::size_t first;
  std::vector<std::int64_t> weights;
};

constexpr int kBits = 22;  // of the fixed-point weights

inline std::vector<Window> windows(std::size_t from, std::size_t to) {
  const double scale = double(from) / double(to), support = std::max(scale, 1.0);
  std::vector<Window> all;
  for (std::size_t index = 0; index < to; ++index) {
    const double centre = (double(index) + 0.5) * scale;
    const auto first = static_cast<std::size_t>(std::max(std::trunc(centre - support + 0.5), 0.0));
    const auto last = static_cast<std::size_t>(std::min(std::trunc(centre + support + 0.5), double(from)));
    std::vector<double> heights;
    double sum = 0;
    for (std::size_t at = first; at < last; ++at) {
      heights.push_back(std::max(1 - std::abs((double(at) - centre + 0.5) / support), 0.0));
      sum += heights.back();
    }
    Window window{first, {}};
    for (double height : heights) {
      window.weights.push_back(static_cast<std::int64_t>(height / sum * double(1 << kBits) + 0.5));
    }
    all.push_back(std::move(window));
  }
  return all;
}

// The middle square of a photo, or all of it squeezed to one, as RGB [size, size, 3].
inline std::vector<std::uint8_t> encoder_input(const Photo& photo, std::size_t size, bool squeeze) {
  const std::size_t side = std::min(photo.width, photo.height);
  const std::size_t width = squeeze ? photo.width : side, height = squeeze ? photo.height : side;
  const std::size_t left = (photo.width - width) / 2, top = (photo.height - height) / 2;
  const std::vector<Window> across = windows(width, size), down = windows(height, size);
  const auto blend = [](const std::uint8_t* from, std::size_t stride, const Window& window, std::uint8_t* to) {
    for (int channel = 0; channel < 3; ++channel) {
      std::int64_t sum = std::int64_t{1} << (kBits - 1);
      for (std::size_t i = 0; i < window.weights.size(); ++i) {
        sum += window.weights[i] * from[(window.first + i) * stride + channel];
      }
      to[channel] = static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> kBits, 0, 255));
    }
  };
  std::vector<std::uint8_t> narrow(height * size * 3), square(size * size * 3);
  for (std::size_t y = 0; y < height; ++y) {
    const std::uint8_t* line = &photo.rgb[((top + y) * photo.width + left) * 3];
    for (std::size_t x = 0; x < size; ++x) blend(line, 3, across[x], &narrow[(y * size + x) * 3]);
  }
  for (std::size_t y = 0; y < size; ++y) {
    for (std::size_t x = 0; x < size; ++x) blend(&narrow[x * 3], size * 3, down[y], &square[(y * size + x) * 3]);
  }
  return square;
}

}  // namespace icgan
