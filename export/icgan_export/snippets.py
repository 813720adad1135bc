"""The page beside a generator's .onnx file: what goes in, what comes out, and a program for each language.

The programs, in `programs/`, are complete and write a PNG: the tests take them from the page and run them as
they stand. With the encoder beside the generator they read a photo; without it what they draw follows none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
PROGRAMS = Path(__file__).with_name("programs")


@dataclass(frozen=True)
class Beside:
    """The encoder whose embeddings a generator understands, and its graph where that is written."""

    name: str
    weights: str  # SHA-256 of its weights file; as the name, empty where the run does not say
    size: int  # side of the pictures that its graph takes
    width: int
    file: str | None = None
    sha256: str | None = None
    squeeze: bool = False  # to the square, instead of the middle of a photo

    def written(self, file: str, sha256: str) -> Beside:
        """The same with its graph in a file."""
        return replace(self, file=file, sha256=sha256)


def page(model: onnx.ModelProto, file: str, sha256: str, encoder: Beside | None) -> str:
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
        f" {model.ByteSize() / 1e6:.1f} MB, opset {opset}, {metadata.get('icgan.precision', 'fp32')},"
        f" SHA-256 {sha256}. Weights: {metadata.get('icgan.licence', 'licence not stated')}.",
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
        *([] if encoder is None else _source_of_embeddings(encoder)),
    ]
    for title, fence, code in programs(model, file, encoder):
        lines += [f"## {title}", "", f"```{fence}", code.rstrip(), "```", ""]
    return "\n".join(lines)


def _source_of_embeddings(encoder: Beside) -> list[str]:
    head = ["## Where an embedding comes from", ""]
    origin = f"{encoder.name} (weights of SHA-256 {encoder.weights})" if encoder.weights else "no other"
    if encoder.file is None:
        return [
            *head,
            f"From the encoder that the generator was trained with: {origin}. The numbers of another one"
            " mean nothing to it. `icgan-export onnx RUN --encoder` writes it beside this"
            " file, and programs that read a photo onto this page. The programs below take numbers that were"
            " drawn, so that their pictures follow nothing.",
            "",
        ]
    return [
        *head,
        f"From `{encoder.file}` (SHA-256 {encoder.sha256}), the encoder that the generator was trained with:"
        f" {origin}. It takes `image`, uint8 [N, {encoder.size}, {encoder.size}, 3]: "
        f"{'all of a photo, squeezed' if encoder.squeeze else 'the middle square of a photo, reduced'}"
        f" to {encoder.size} pixels by an antialiased bilinear filter, RGB, the way up it was"
        f" taken. It gives `embedding`, float32 [N, {encoder.width}], rows of length 1. An embedding can be"
        " kept, and mixed with others: make the sum's length 1 again.",
        "",
    ]


def programs(model: onnx.ModelProto, file: str, encoder: Beside | None) -> list[tuple[str, str, str]]:
    """(title, language, program) for each language."""
    sides = {value.name: value.type.tensor_type.shape.dim[-1].dim_value for value in model.graph.input}
    dtype, _ = _shape(model.graph.output[0])
    side = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    photo = encoder is not None and encoder.file is not None
    kept = {
        "embedding": "embedding" in sides,
        "photo": photo,
        "centre": photo and encoder is not None and not encoder.squeeze,
        "squeezed": photo and encoder is not None and encoder.squeeze,
        "drawn": "embedding" in sides and not photo,
        "label": "label" in sides,
        "bytes": dtype == "uint8",
        "floats": dtype == "float32",
    }
    words = {
        "FILE": file,
        "ENCODER": encoder.file or "" if encoder else "",
        "SIZE": str(encoder.size) if encoder else "0",
        "FIT": "fill" if encoder and encoder.squeeze else "cover",
        "SQUARE": "All of a photo" if encoder and encoder.squeeze else "The middle square of a photo",
        "DIM_Z": str(sides["noise"]),
        "WIDTH": str(sides.get("embedding", 1)),
        "SIDE": str(side),
        "INPUTS": ", ".join(f'"{name}"' for name in sides),
    }
    languages = {"python": ("Python", "python"), "javascript": ("JavaScript", "js"), "cpp": ("C++", "cpp")}
    return [
        (title, fence, _fill((PROGRAMS / f"{name}.txt").read_text(), kept, words))
        for name, (title, fence) in languages.items()
    ]


def _fill(text: str, kept: dict[str, bool], words: dict[str, str]) -> str:
    """Lines that end in `@name` stay, without that, where `kept` says so; @NAME@ is a word."""
    lines = []
    for line in text.splitlines():
        code, mark, name = line.rpartition(" @")
        if mark and name in kept:
            if kept[name]:
                lines.append(code.rstrip())
        else:
            lines.append(line)
    filled = "\n".join(lines)
    for name, word in words.items():
        filled = filled.replace(f"@{name}@", word)
    return filled


def write_page(model: onnx.ModelProto, out: Path, sha256: str, encoder: Beside | None) -> Path:
    """Write the page beside `out` under the same name with the ending .md; returns its path."""
    path = out.with_suffix(".md")
    path.write_text(page(model, out.name, sha256, encoder))
    return path


def _shape(value: onnx.ValueInfoProto) -> tuple[str, str]:
    tensor = value.type.tensor_type
    shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    return helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, f"[{shape}]"
