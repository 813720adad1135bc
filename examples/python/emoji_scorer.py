"""A small pair of encoders for words, trained on emoji and their names, for `--text` where you have no CLIP.

    icgan-train fetch fluent-emoji --out emoji
    python examples/python/emoji_scorer.py emoji bundles/demo/encoder.onnx --out scorer
    icgan guide bundles/demo photo.jpg --text "green apple" --image-encoder scorer/image.onnx \
        --text-encoder scorer/text.onnx --tokenizer scorer/tokenizer.json

A picture is seen by the bundle's encoder and one matrix, a text is the mean of its words' vectors; both are
trained so that a picture and its own name are alike, among all others (InfoNCE). A file is named by the code
points of its emoji, whose names Unicode gives. One in ten is held out, and its name looked for among theirs.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from icgan_runtime import images
from icgan_runtime.backends.ort import OrtSession

WIDTH = 64
SHARPNESS = 20.0  # of the softmax over pictures
HELD_OUT = 10
DECAY = 0.01
UNKNOWN = "[UNK]"
PICTURES = (".webp", ".png", ".jpg")
OF_NO_MEANING = {"with", "and", "of", "the", "face", "variation", "selector-16", "joiner", "zero", "width"}

F32 = NDArray[np.float32]


def words_of(path: Path) -> list[str]:
    """The words of an emoji's name, of a file such as 1f34e.webp; none of another file."""
    try:
        names = [unicodedata.name(chr(int(point, 16)), "") for point in path.stem.split("-")]
    except (ValueError, OverflowError):  # no number, or none of a character
        return []
    return [word for word in " ".join(names).lower().split() if word not in OF_NO_MEANING]


def seen(files: list[Path], encoder: Path) -> F32:
    """Embeddings [N, D] of pictures, by an encoder as bundles hold it."""
    session = OrtSession(encoder.read_bytes(), encoder.name)
    side = session.inputs[0].shape[1]
    rows = [session.run({"image": images.load(file, side)[None]})["embedding"] for file in files]
    return np.concatenate(rows)


def multi_hot(words: list[list[str]], vocabulary: list[str]) -> F32:
    """[N, V]: the share of each word in a text; words that are not known have none."""
    rows = np.zeros((len(words), len(vocabulary)), np.float32)
    column = {word: number for number, word in enumerate(vocabulary)}
    for row, text in enumerate(words):
        known = [column[word] for word in text if word in column]
        rows[row, known] = 1 / max(len(known), 1)
    return rows


def train(pictures: F32, texts: F32, steps: int) -> tuple[F32, F32, F32]:
    """The middle of the pictures [D], their matrix [D, WIDTH], and the words' vectors [V, WIDTH]."""
    torch.manual_seed(0)
    middle = pictures.mean(axis=0)
    x, t = torch.from_numpy(pictures - middle), torch.from_numpy(texts)
    matrix = torch.nn.Parameter(torch.randn(x.shape[1], WIDTH) / x.shape[1] ** 0.5)
    vectors = torch.nn.Parameter(torch.randn(t.shape[1], WIDTH) / WIDTH**0.5)
    optimiser = torch.optim.AdamW([matrix, vectors], lr=0.01, weight_decay=DECAY)
    # pictures of one name are no strangers to each other
    same = torch.nn.functional.normalize((t @ t.T > 0.999 * t.square().sum(1)).float(), p=1, dim=1)
    for _ in range(steps):
        alike = unit(x @ matrix) @ unit(t @ vectors).T * SHARPNESS
        loss = -(same * alike.log_softmax(1) + same.T * alike.T.log_softmax(1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return middle, matrix.detach().numpy(), vectors.detach().numpy()


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def write(out: Path, encoder: Path, vocabulary: list[str], middle: F32, matrix: F32, vectors: F32) -> None:
    """image.onnx, text.onnx and tokenizer.json."""
    out.mkdir(parents=True, exist_ok=True)
    model = onnx.load(encoder)
    model.graph.node.append(helper.make_node("MatMul", ["embedding", "words.matrix"], ["words.projected"]))
    model.graph.node.append(helper.make_node("Sub", ["words.projected", "words.middle"], ["image_embeds"]))
    model.graph.initializer.append(numpy_helper.from_array(matrix, "words.matrix"))
    model.graph.initializer.append(numpy_helper.from_array(middle @ matrix, "words.middle"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["N", WIDTH]))
    del model.metadata_props[:]
    onnx.save(model, out / "image.onnx")
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "L"])
    embeds = helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["N", WIDTH])
    table = np.concatenate([np.zeros((1, WIDTH), np.float32), vectors])  # the unknown word first
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["text_embeds"], keepdims=0),
    ]
    held = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")]
    graph = helper.make_graph(nodes, "text", [ids], [embeds], held)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), out / "text.onnx")
    numbers = {word: number for number, word in enumerate([UNKNOWN, *vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(numbers, UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(out / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("emoji", type=Path, help="folder of pictures named by code points")
    parser.add_argument("encoder", type=Path, help="encoder.onnx of a bundle")
    parser.add_argument("--steps", type=int, default=150, help="of training (default: 150)")
    parser.add_argument("--out", type=Path, default=Path("scorer"), help="folder to write (default: scorer)")
    options = parser.parse_args()
    named = [(file, words_of(file)) for file in sorted(options.emoji.rglob("*")) if file.suffix in PICTURES]
    named = [(file, words) for file, words in named if words]
    if not named:
        parser.error(f"{options.emoji} has no picture whose name is code points, such as 1f34e.webp")
    files, words = [file for file, _ in named], [text for _, text in named]
    pictures = seen(files, options.encoder)
    held = np.arange(len(files)) % HELD_OUT == HELD_OUT - 1
    counts = Counter(word for row in np.flatnonzero(~held) for word in set(words[row]))
    vocabulary = sorted(counts)
    texts = multi_hot(words, vocabulary)
    middle, matrix, vectors = train(pictures[~held], texts[~held], options.steps)
    tried = held & (texts.sum(axis=1) > 0)
    if tried.any():
        a = unit(torch.from_numpy((pictures[tried] - middle) @ matrix))
        b = unit(torch.from_numpy(texts[tried] @ vectors))
        alike = a @ b.T
        ranks = (alike > alike.diagonal()[:, None]).sum(1).numpy()  # better names than its own
        first, ten = (ranks < 1).mean(), (ranks < 10).mean()
        print(f"{len(ranks)} held out: own name first of all {first:.2f}, among ten {ten:.2f}")
        print(f"by chance {1 / len(ranks):.3f} and {min(10 / len(ranks), 1):.3f}")
    write(options.out, options.encoder, vocabulary, middle, matrix, vectors)
    print(f"{len(files)} pictures, {len(vocabulary)} words: {options.out}")


if __name__ == "__main__":
    main()
