"""The Node and C++ examples: the pictures they write are the Python pipeline's."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline, sheets
from icgan_runtime.banks.write import BankOptions, write_new_bank
from icgan_runtime.bundle.manifest import Manifest, describe_files
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.chain import LocalChain
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.origin import recover
from icgan_runtime.origin.prove import PROVED, Queries, prove
from tests.edge.conftest import EXAMPLES, node
from tests.edge.proof import assert_proved

ROW, SEED = 3, 2**63 - 1
ORIENTATION = 0x0112  # of EXIF: which way the phone was held


def assert_pictures_are_pythons(sheet: Path, bundle: Path) -> None:
    with Pipeline.load(bundle, threads=1) as pipe:
        expected = pipe.generate_from(pipe.bank.embeddings[ROW], n=8, seed=SEED, truncation=0.7)
    found = np.asarray(Image.open(sheet))
    assert np.abs(found.astype(int) - sheets.grid(expected.images, columns=8, gap=0)).max() <= 1
    side = len(found)
    assert_proved(found[:, 5 * side : 6 * side], bundle, None, SEED, 5, 0.7)
    assert read_marks(sheet.read_bytes()).generated


def assert_claim_is_proved(sheet: Path, bundle: Path) -> None:
    """What the file says of itself draws all eight pictures."""
    data = sheet.read_bytes()
    marks, nobody = read_marks(data), recover.Candidates(range(1), range(1), 1.0)
    with Pipeline.load(bundle, threads=1) as pipe:
        assert isinstance(pipe.chain, LocalChain)
        queries = Queries(np.asarray(pipe.bank.embeddings), tuple(map(int, pipe.bank.ids)))
        verdict = prove(data, marks, pipe.chain, queries, nobody)
    assert (verdict.verdict, verdict.how, verdict.seed) == (PROVED, "claim", SEED)
    assert (len(verdict.drawings), verdict.notes) == (8, ())


@pytest.mark.parametrize("name", ["tiny_bundle", "labelled_bundle", "stylegan2_bundle"])
def test_the_node_example_draws_pythons_pictures(name, node_packages, request, tmp_path):
    bundle = request.getfixturevalue(name)
    printed = node(EXAMPLES / "node/generate.mjs", bundle, ROW, SEED, tmp_path / "sheet.png")
    assert_pictures_are_pythons(tmp_path / "sheet.png", bundle)
    assert f"instances: {ROW} (1.000)" in printed
    assert_claim_is_proved(tmp_path / "sheet.png", bundle)


def test_the_node_example_takes_a_photo(tiny_bundle, node_packages, tmp_path):
    if not (node_packages / "sharp").exists():
        pytest.skip("sharp is not installed: make test-edge")
    photo = EXAMPLES / "photos/oranges.jpg"
    node(EXAMPLES / "node/generate.mjs", tiny_bundle, photo, SEED, tmp_path / "sheet.png")
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        expected = sheets.grid(pipe.generate(photo, n=8, seed=SEED, truncation=0.7).images, columns=8, gap=0)
    found = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    assert np.abs(found - expected).max() <= 2  # another decoder of JPEG


def test_the_node_example_refuses_a_changed_file(tiny_bundle, node_packages, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "changed")
    changed = bytearray((bundle / "generator.onnx").read_bytes())
    changed[-1] ^= 1
    (bundle / "generator.onnx").write_bytes(changed)
    with pytest.raises(AssertionError, match=r"generator\.onnx: its bytes are not the manifest's"):
        node(EXAMPLES / "node/generate.mjs", bundle)


@pytest.mark.parametrize("coding", ["float16", "int8"])
def test_the_node_example_refuses_embeddings_in_fewer_bytes_and_says_what_writes_others(
    tiny_bundle, node_packages, tmp_path, coding
):
    bundle = tmp_path / "coded"
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        options = BankOptions(neighbours=3, embeddings=coding)
        write_new_bank(pipe, Bundle.open(tiny_bundle), str(EXAMPLES / "photos"), bundle, options)
    with pytest.raises(AssertionError, match=r"embeddings\.npy: .* is not read here, float32 is: icgan bank"):
        node(EXAMPLES / "node/generate.mjs", bundle, 0, 0, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("row", ["20", "-1", "1.5", "first"])
def test_the_node_example_names_a_row_that_the_bank_does_not_have(tiny_bundle, node_packages, tmp_path, row):
    number = "NaN" if row == "first" else row
    with pytest.raises(AssertionError, match=rf"no row {number} in a bank of 20 instances"):
        node(EXAMPLES / "node/generate.mjs", tiny_bundle, row, 0, tmp_path / "sheet.png")


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_the_node_example_names_a_seed_that_no_language_takes(tiny_bundle, node_packages, tmp_path, seed):
    with pytest.raises(AssertionError, match=rf"seed {seed} is not in 0 \.\. 2\^63 - 1"):
        node(EXAMPLES / "node/generate.mjs", tiny_bundle, ROW, seed, tmp_path / "sheet.png")


def test_the_node_example_does_not_guess_a_class_for_instances_without(
    labelled_bundle, node_packages, tmp_path
):
    bundle = shutil.copytree(labelled_bundle, tmp_path / "unlabelled")
    (bundle / "bank/labels.npy").unlink()
    manifest = Manifest.read(bundle)
    bank = dataclasses.replace(manifest.bank, labelled=False)
    dataclasses.replace(manifest, bank=bank, files=describe_files(bundle)).write(bundle)
    with pytest.raises(AssertionError, match="instances of this bundle have no labels"):
        node(EXAMPLES / "node/generate.mjs", bundle, ROW, SEED, tmp_path / "sheet.png")


@pytest.fixture(scope="module")
def cpp_program(onnxruntime_headers, onnxruntime_library, tmp_path_factory) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("cpp")
    places = f"-DONNXRUNTIME_INCLUDE={onnxruntime_headers}", f"-DONNXRUNTIME_LIBRARY={onnxruntime_library}"
    subprocess.run(["cmake", "-S", EXAMPLES / "cpp", "-B", folder, *places], check=True)
    subprocess.run(["cmake", "--build", folder], check=True)
    return folder / "generate"


@pytest.mark.parametrize("name", ["tiny_bundle", "labelled_bundle", "stylegan2_bundle"])
def test_the_cpp_example_draws_pythons_pictures(name, cpp_program, request, tmp_path):
    bundle = request.getfixturevalue(name)
    subprocess.run([cpp_program, bundle, str(ROW), str(SEED), tmp_path / "sheet.png"], check=True)
    assert_pictures_are_pythons(tmp_path / "sheet.png", bundle)


@pytest.fixture
def jpeg_headers() -> None:
    if not Path("/usr/include/jpeglib.h").exists():
        pytest.skip("libjpeg-dev is not installed")


def assert_pictures_of_a_photo_are_pythons(program: Path, bundle: Path, photo: Path, sheet: Path) -> None:
    subprocess.run([program, bundle, photo, str(SEED), sheet], check=True)
    with Pipeline.load(bundle, threads=1) as pipe:
        expected = sheets.grid(pipe.generate(photo, n=8, seed=SEED, truncation=0.7).images, columns=8, gap=0)
    assert np.abs(np.asarray(Image.open(sheet)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cpp_example_takes_a_photo_whichever_way_the_phone_was_held(
    orientation, tiny_bundle, cpp_program, jpeg_headers, tmp_path
):
    photo = tmp_path / "photo.jpg"
    with Image.open(EXAMPLES / "photos/oranges.jpg") as opened:
        exif = opened.getexif()
        exif[ORIENTATION] = orientation
        opened.crop((0, 0, 251, 200)).save(photo, exif=exif)
    assert_pictures_of_a_photo_are_pythons(cpp_program, tiny_bundle, photo, tmp_path / "sheet.png")


def test_the_cpp_example_gives_a_photo_the_class_of_its_nearest_instance(
    labelled_bundle, cpp_program, jpeg_headers, tmp_path
):
    photo = EXAMPLES / "photos/pears.jpg"
    assert_pictures_of_a_photo_are_pythons(cpp_program, labelled_bundle, photo, tmp_path / "sheet.png")


def test_the_cpp_example_squeezes_a_photo_where_the_model_was_trained_on_such(
    squeezed_bundle, cpp_program, jpeg_headers, tmp_path
):
    photo = EXAMPLES / "photos/pears.jpg"
    assert_pictures_of_a_photo_are_pythons(cpp_program, squeezed_bundle, photo, tmp_path / "sheet.png")


@pytest.mark.parametrize("cut", [0, 40, -200])
def test_the_cpp_example_names_a_photo_that_it_cannot_read(
    cut, tiny_bundle, cpp_program, jpeg_headers, tmp_path
):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes((EXAMPLES / "photos/oranges.jpg").read_bytes()[:cut])
    done = subprocess.run([cpp_program, tiny_bundle, photo], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"generate: {photo}: ")
    assert done.stderr.count("\n") == 1


def test_the_cpp_example_names_the_file_that_has_no_such_row(tiny_bundle, cpp_program):
    done = subprocess.run([cpp_program, tiny_bundle, "20"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"generate: {tiny_bundle}/bank/embeddings.npy has no row 20\n"


def test_the_cpp_example_says_that_it_does_not_read_smaller_embeddings(tiny_bundle, cpp_program, tmp_path):
    small = shutil.copytree(tiny_bundle, tmp_path / "small")
    rows = np.load(tiny_bundle / "bank" / "embeddings.npy")
    np.save(small / "bank" / "embeddings.npy", rows.astype(np.float16))
    done = subprocess.run([cpp_program, small, "0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "embeddings.npy holds other numbers than '<f4'" in done.stderr


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_the_cpp_example_names_a_seed_that_no_language_takes(tiny_bundle, cpp_program, seed):
    done = subprocess.run([cpp_program, tiny_bundle, str(ROW), seed], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"generate: seed {seed} is not in 0 .. 2^63 - 1\n")


def test_the_cpp_example_does_not_say_it_wrote_what_it_could_not(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler is installed")
    (tmp_path / "program.cpp").write_text("""
        #include "png.hpp"
        int main(int, char** argv) try {
          icgan::write_png(argv[1], std::vector<std::uint8_t>(12, 255), 2, 2);
        } catch (const std::exception& error) {
          return std::string(error.what()) == std::string(argv[1]) + " cannot be written" ? 1 : 2;
        }
    """)
    program = tmp_path / "program"
    build = ["c++", "-std=c++17", "-I", EXAMPLES / "cpp", tmp_path / "program.cpp", "-o", program]
    subprocess.run(build, check=True)
    assert subprocess.run([program, tmp_path / "absent" / "sheet.png"]).returncode == 1
    assert subprocess.run([program, tmp_path / "sheet.png"]).returncode == 0
    assert np.asarray(Image.open(tmp_path / "sheet.png")).tolist() == [[[255] * 3] * 2] * 2
