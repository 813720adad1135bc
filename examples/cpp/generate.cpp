// generate BUNDLE [PHOTO.jpg or ROW] [SEED] [OUT.png]: eight pictures that follow a photo, or a stored instance, side by
// side.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "noise.hpp"
#include "png.hpp"
#ifdef ICGAN_JPEG
#include "photo.hpp"
#endif

namespace {

constexpr std::int64_t kCount = 8;
constexpr float kTruncation = 0.7f;

// Rows of a file of the bank, `width` numbers each: a .npy file of version 1.0, as docs/format.md prescribes. All of
// them, or one.
template <typename Number>
std::vector<Number> stored(const std::string& path, std::size_t width, std::optional<std::size_t> row = {}) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() < 10 || bytes.compare(0, 8, std::string("\x93NUMPY\x01\0", 8)) != 0) {
    throw std::runtime_error(path + " is no .npy 1.0 file");
  }
  const std::size_t start = 10 + static_cast<unsigned char>(bytes[8]) + 256 * static_cast<unsigned char>(bytes[9]);
  const std::string kind = sizeof(Number) == 4 ? "'<f4'" : "'<i8'";
  if (bytes.substr(10, start - 10).find("{'descr': " + kind) != 0) {
    throw std::runtime_error(path + " holds other numbers than " + kind + ", which are not read here");
  }
  const std::size_t size = width * sizeof(Number);
  const std::size_t rows = bytes.size() < start ? 0 : (bytes.size() - start) / size;
  if (row.value_or(0) >= rows) throw std::runtime_error(path + " has no row " + std::to_string(row.value_or(0)));
  std::vector<Number> numbers(row ? width : rows * width);
  std::memcpy(numbers.data(), bytes.data() + start + row.value_or(0) * size, numbers.size() * sizeof(Number));
  return numbers;
}

// The stored instance that is most similar: the one with the largest inner product.
std::size_t nearest(const std::string& bundle, const std::vector<float>& embedding) {
  const auto bank = stored<float>(bundle + "/bank/embeddings.npy", embedding.size());
  std::size_t best = 0;
  float most = -2;
  for (std::size_t row = 0; row * embedding.size() < bank.size(); ++row) {
    const float score = std::inner_product(embedding.begin(), embedding.end(), &bank[row * embedding.size()], 0.0f);
    if (score > most) best = row, most = score;
  }
  return best;
}

// The same numbers for each of the pictures.
template <typename Number>
std::vector<Number> for_each_picture(const std::vector<Number>& numbers) {
  std::vector<Number> all;
  for (std::int64_t sample = 0; sample < kCount; ++sample) all.insert(all.end(), numbers.begin(), numbers.end());
  return all;
}

// Whether what was asked for is a stored instance, by its number.
bool is_row(const std::string& word) { return word.find_first_not_of("0123456789") == std::string::npos; }

// The embedding of a photo.
std::vector<float> embed(Ort::Env& env, const std::string& bundle, const std::string& photo) {
#ifdef ICGAN_JPEG
  Ort::Session encoder(env, (bundle + "/encoder.onnx").c_str(), Ort::SessionOptions{nullptr});
  const auto size = encoder.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[1];
  std::ifstream file(bundle + "/manifest.json");
  const std::string manifest{std::istreambuf_iterator<char>(file), {}};
  const bool squeeze = std::regex_search(manifest, std::regex(R"("crop"\s*:\s*"squeeze")"));
  auto pixels = icgan::encoder_input(icgan::read_jpeg(photo), size, squeeze);
  const std::int64_t shape[] = {1, size, size, 3};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto image = Ort::Value::CreateTensor(memory, pixels.data(), pixels.size(), shape, 4);
  const char *input = "image", *output = "embedding";
  const auto found = encoder.Run(Ort::RunOptions{nullptr}, &input, &image, 1, &output, 1);
  const float* first = found[0].GetTensorData<float>();
  return {first, first + found[0].GetTensorTypeAndShapeInfo().GetElementCount()};
#else
  throw std::runtime_error(photo + ": this program was built without libjpeg (Debian: apt install libjpeg-dev)");
#endif
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: generate BUNDLE [PHOTO.jpg or ROW] [SEED] [OUT.png]\n";
    return 2;
  }
  const std::string bundle = argv[1], query = argc > 2 ? argv[2] : "0", out = argc > 4 ? argv[4] : "pictures.png";
  const std::uint64_t seed = argc > 3 ? std::stoull(argv[3]) : 0;
  if (seed > INT64_MAX) throw std::runtime_error("seed " + std::string(argv[3]) + " is not in 0 .. 2^63 - 1");

  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "icgan");
  Ort::Session generator(env, (bundle + "/generator.onnx").c_str(), Ort::SessionOptions{nullptr});
  const auto width = [&](std::size_t input) {
    return generator.GetInputTypeInfo(input).GetTensorTypeAndShapeInfo().GetShape()[1];
  };
  const std::int64_t dim_z = width(0), dim_h = width(1);

  // The inputs after the embedding depend on the model: a label, and truncation where that does not bound noise.
  std::vector<std::string> names;
  for (std::size_t input = 0; input < generator.GetInputCount(); ++input) {
    names.push_back(generator.GetInputNameAllocated(input, Ort::AllocatorWithDefaultOptions{}).get());
  }
  const auto takes = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };

  const float bound = takes("truncation") ? icgan::kUntruncated : kTruncation;
  std::vector<float> noise, truncation(kCount, kTruncation);
  for (std::int64_t sample = 0; sample < kCount; ++sample) {
    const std::vector<float> z = icgan::noise(seed, sample, bound, dim_z);
    noise.insert(noise.end(), z.begin(), z.end());
  }
  const std::string bank = bundle + "/bank/embeddings.npy";
  const auto one = is_row(query) ? stored<float>(bank, dim_h, std::stoull(query)) : embed(env, bundle, query);
  auto embedding = for_each_picture(one);
  std::vector<std::int64_t> label;  // only of models with classes
  if (takes("label")) {
    const std::size_t row = is_row(query) ? std::stoull(query) : nearest(bundle, one);
    label = for_each_picture(stored<std::int64_t>(bundle + "/bank/labels.npy", 1, row));
  }

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto tensor = [&](auto& data, std::vector<std::int64_t> shape) {
    return Ort::Value::CreateTensor(memory, data.data(), data.size(), shape.data(), shape.size());
  };
  std::vector<Ort::Value> inputs;
  inputs.push_back(tensor(noise, {kCount, dim_z}));
  inputs.push_back(tensor(embedding, {kCount, dim_h}));
  if (!label.empty()) inputs.push_back(tensor(label, {kCount}));
  if (takes("truncation")) inputs.push_back(tensor(truncation, {kCount}));
  std::vector<const char*> input_names;
  for (const std::string& name : names) input_names.push_back(name.c_str());
  const char* output_names[] = {"image"};
  const auto outputs = generator.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(), output_names, 1);

  const std::size_t side = outputs[0].GetTensorTypeAndShapeInfo().GetShape()[1];
  const auto* pixels = outputs[0].GetTensorData<std::uint8_t>();  // [8, R, R, 3]
  std::vector<std::uint8_t> sheet(kCount * side * side * 3);
  for (std::size_t line = 0; line < kCount * side; ++line) {
    const std::size_t picture = line / side, y = line % side;
    std::memcpy(&sheet[(y * kCount + picture) * side * 3], pixels + line * side * 3, side * 3);
  }
  icgan::write_png(out, sheet, kCount * side, side);
  std::cout << "wrote " << out << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "generate: " << error.what() << "\n";
    return 1;
  }
}
