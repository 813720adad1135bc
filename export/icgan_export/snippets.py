"""The page beside a generator's .onnx file: what goes in, what comes out, and ten lines for each language.

The programs are complete: the tests take them from the page and run them as they stand.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

DESCRIPTIONS = {
    "noise": "standard normal numbers; multiply by t < 1 for more typical, less varied pictures (not on the "
    "StyleGAN2 backbone, to which their length means nothing)",
    "embedding": "of the picture to follow, from the model's encoder; rows of Euclidean length 1",
    "label": "class of each picture",
}
IMAGES = {
    "uint8": "RGB bytes, rows from top to bottom",
    "float32": "RGB in [-1, 1]; (x + 1) * 127.5 gives grey levels",
}

PYTHON = """\
import numpy as np, onnxruntime as ort

session = ort.InferenceSession("{file}")
random = np.random.default_rng(0)
embedding = random.normal(size=(4, {width})).astype(np.float32)  # take your encoder's instead
embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
feeds = {{{feeds}}}
image = session.run(["image"], feeds)[0]
print(image.dtype, image.shape)
"""

JAVASCRIPT = """\
import ort from "onnxruntime-node"; // in a browser: onnxruntime-web

const session = await ort.InferenceSession.create("{file}");
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
const rows = (width) => Float32Array.from({{ length: 4 * width }}, normal);
const embedding = rows({width}).map((value) => value / Math.sqrt({width})); // take your encoder's instead
const feeds = {{ {feeds} }};
const {{ image }} = await session.run(feeds);
console.log(image.type, image.dims);
"""

CPP = """\
#include <onnxruntime_cxx_api.h>
#include <cmath>
#include <iostream>
#include <random>
#include <vector>

int main() {{
  Ort::Env env;
  Ort::Session session(env, "{file}", Ort::SessionOptions{{}});
  std::mt19937 random;
  std::normal_distribution<float> normal;
  std::vector<float> noise(4 * {dim_z}), embedding(4 * {width});  // take your encoder's embedding instead
  for (float& value : noise) value = normal(random);
  for (float& value : embedding) value = normal(random) / std::sqrt({width}.0f);
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::int64_t shapes[][2] = {{{{4, {dim_z}}}, {{4, {width}}}}};
  std::vector<Ort::Value> values;
  values.push_back(Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), shapes[0], 2));
{values}\
  const char* names[] = {{{names}}};
  const char* results[] = {{"image"}};
  auto image = session.Run(Ort::RunOptions{{}}, names, values.data(), values.size(), results, 1);
  for (auto side : image[0].GetTensorTypeAndShapeInfo().GetShape()) std::cout << side << " ";
}}
"""
CPP_EMBEDDING = """\
  values.push_back(Ort::Value::CreateTensor<float>(memory, embedding.data(), embedding.size(), shapes[1], 2));
"""
CPP_LABEL = """\
  std::int64_t label[] = {0, 0, 0, 0}, count[] = {4};
  values.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, label, 4, count, 1));
"""


def page(model: onnx.ModelProto, file: str) -> str:
    """Markdown about a generator graph, saved as `file`."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    inputs = {value.name: _shape(value) for value in model.graph.input}
    image = _shape(model.graph.output[0])
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    lines = [
        f"# {file}",
        "",
        f"The generator of an instance-conditioned GAN ({metadata.get('icgan.name', '')}"
        f" {metadata.get('icgan.version', '')}) in one self-contained ONNX file of"
        f" {model.ByteSize() / 1e6:.1f} MB, opset {opset}, {metadata.get('icgan.precision', 'fp32')}."
        f" Weights: {metadata.get('icgan.licence', 'licence not stated')}.",
        "",
        "| tensor | type | shape | what |",
        "|---|---|---|---|",
    ]
    for name, (dtype, shape) in inputs.items():
        lines.append(f"| `{name}` (in) | {dtype} | {shape} | {DESCRIPTIONS[name]} |")
    dtype, shape = image
    lines += [
        f"| `image` (out) | {dtype} | {shape} | {IMAGES[dtype]} |",
        "",
        "N is the number of pictures, any from 1. The same inputs give the same picture at every N, within"
        " one grey level. Noise that is the same in every language for one seed is specified in the project's"
        " `docs/noise.md`.",
        "",
    ]
    for title, fence, code in programs(model, file):
        lines += [f"## {title}", "", f"```{fence}", code.rstrip(), "```", ""]
    return "\n".join(lines)


def programs(model: onnx.ModelProto, file: str) -> list[tuple[str, str, str]]:
    """(title, language, program) for each language."""
    sides = {value.name: value.type.tensor_type.shape.dim[-1].dim_value for value in model.graph.input}
    dim_z, width = sides["noise"], sides.get("embedding", 1)
    python = {
        "noise": f'"noise": random.normal(size=(4, {dim_z})).astype(np.float32)',
        "embedding": '"embedding": embedding',
        "label": '"label": np.zeros(4, np.int64)',
    }
    javascript = {
        "noise": f"noise: new ort.Tensor(rows({dim_z}), [4, {dim_z}])",
        "embedding": f"embedding: new ort.Tensor(embedding, [4, {width}])",
        "label": 'label: new ort.Tensor("int64", new BigInt64Array(4), [4])',
    }
    cpp = {"noise": "", "embedding": CPP_EMBEDDING, "label": CPP_LABEL}

    def fill(text: str, **parts: str) -> str:
        if "embedding" not in sides:
            text = "".join(line for line in text.splitlines(True) if not _about_embedding(line))
        return text.format(file=file, dim_z=dim_z, width=width, **parts)

    return [
        ("Python", "python", fill(PYTHON, feeds=", ".join(python[name] for name in sides))),
        ("JavaScript", "js", fill(JAVASCRIPT, feeds=", ".join(javascript[name] for name in sides))),
        (
            "C++",
            "cpp",
            fill(
                CPP,
                names=", ".join(f'"{name}"' for name in sides),
                values="".join(cpp[name] for name in sides),
            ),
        ),
    ]


def _about_embedding(line: str) -> bool:
    return line.startswith(("embedding ", "const embedding "))


def write_page(model: onnx.ModelProto, out: Path) -> Path:
    """Write the page beside `out` under the same name with the ending .md; returns its path."""
    path = out.with_suffix(".md")
    path.write_text(page(model, out.name))
    return path


def _shape(value: onnx.ValueInfoProto) -> tuple[str, str]:
    tensor = value.type.tensor_type
    shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    return helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, f"[{shape}]"
