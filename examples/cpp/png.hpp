// RGB bytes -> a PNG file without compression, so that the example needs no image library. It says that a trained
// algorithm made the picture (XMP, in the words of IPTC), unsigned and without a claim: docs/origin.md has more.
#pragma once

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace icgan {

inline void put_u32(std::string& to, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) to += static_cast<char>(value >> shift);
}

inline void put_chunk(std::string& to, const std::string& kind, const std::string& data) {
  put_u32(to, static_cast<std::uint32_t>(data.size()));
  const std::string body = kind + data;
  std::uint32_t crc = ~0u;
  for (unsigned char byte : body) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1)));
  }
  to += body;
  put_u32(to, ~crc);
}

// A zlib stream of stored blocks.
inline std::string stored(const std::string& data) {
  std::string out = "\x78\x01";
  std::uint32_t a = 1, b = 0;  // Adler-32
  for (unsigned char byte : data) b = (b + (a = (a + byte) % 65521)) % 65521;
  for (std::size_t at = 0; at < data.size(); at += 65535) {
    const std::size_t size = std::min<std::size_t>(65535, data.size() - at);
    out += at + size == data.size() ? '\1' : '\0';
    for (std::size_t field : {size, ~size}) out += {static_cast<char>(field), static_cast<char>(field >> 8)};
    out.append(data, at, size);
  }
  put_u32(out, b << 16 | a);
  return out;
}

// An iTXt chunk's body, uncompressed, of no language.
inline std::string generated() {
  const std::string keyword("XML:com.adobe.xmp\0\0\0\0\0", 22);
  return keyword +
         "<?xpacket begin=\"\xEF\xBB\xBF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?><x:xmpmeta xmlns:x=\"adobe:ns:meta/\">"
         "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\"><rdf:Description rdf:about=\"\" "
         "xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" Iptc4xmpExt:DigitalSourceType="
         "\"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia\"/></rdf:RDF></x:xmpmeta>"
         "<?xpacket end=\"r\"?>";
}

inline void write_png(const std::string& path, const std::vector<std::uint8_t>& rgb, std::uint32_t width,
                      std::uint32_t height) {
  std::string header, lines, file = "\x89PNG\r\n\x1a\n";
  put_u32(header, width);
  put_u32(header, height);
  header += std::string("\x08\x02\0\0\0", 5);  // 8 bits per channel, RGB
  for (std::uint32_t y = 0; y < height; ++y) {
    lines += '\0';  // no filter
    lines.append(reinterpret_cast<const char*>(&rgb[std::size_t{y} * width * 3]), std::size_t{width} * 3);
  }
  put_chunk(file, "IHDR", header);
  put_chunk(file, "iTXt", generated());
  put_chunk(file, "IDAT", stored(lines));
  put_chunk(file, "IEND", "");
  std::ofstream out(path, std::ios::binary);
  out << file;
  out.close();
  if (!out) throw std::runtime_error(path + " cannot be written");
}

}  // namespace icgan
