import io
import json

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline, images
from icgan_runtime.chain import LocalChain
from icgan_runtime.cli import main
from icgan_runtime.marks.mark import Mark
from icgan_runtime.origin.chance import fit
from icgan_runtime.origin.likeness import COARSE, FINE, WHOLE, View, features, grey, refine, views
from icgan_runtime.origin.prove import _likest_twin
from icgan_runtime.origin.recover import Candidate, Candidates

PICTURE = np.full((9, 9, 3), 200, np.uint8)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(images.encode(PICTURE))
    return path


@pytest.fixture
def prove(tiny_bundle, photo, capsys):
    """Runs the command about a file; returns its status and what it says as JSON."""

    def run(file, *options, bundle=tiny_bundle, picture=photo):
        asked = ["--picture", str(picture)] if picture else []
        status = main(["prove", str(file), "--bundle", str(bundle), *asked, *map(str, options), "--json"])
        shown = capsys.readouterr()
        return status, json.loads(shown.out) if shown.out else shown.err

    return run


@pytest.fixture
def result(tiny_bundle, photo):
    with Pipeline.load(tiny_bundle) as pipe:
        return pipe.generate(str(photo), n=6, seed=7, truncation=0.7)


def plain(image) -> bytes:
    return images.encode(image)


@pytest.mark.parametrize("name", ["x.png", "x.webp"])
def test_a_saved_result_is_proved(prove, result, tmp_path, name):
    (path,) = result.save(tmp_path / name)
    status, told = prove(path)
    assert (status, told["verdict"], told["how"], told["pictures"]) == (0, "proved", "claim", 6)


def test_a_generated_sheet_of_two_pictures_is_proved(prove, tiny_bundle, photo, tmp_path, capsys):
    sheet = tmp_path / "grid.png"
    command = ["generate", str(tiny_bundle), str(photo), str(photo), "-n", "3", "--columns", "2"]
    assert main([*command, "--out", str(sheet)]) == 0
    capsys.readouterr()
    status, told = prove(sheet, "--picture", photo)
    assert (status, told["verdict"], told["pictures"]) == (0, "proved", 6)


@pytest.mark.parametrize("condition", ["nearest", "sample"])
def test_every_condition_is_proved(prove, tiny_bundle, photo, tmp_path, condition):
    with Pipeline.load(tiny_bundle) as pipe:
        pipe.generate(str(photo), n=2, seed=3, condition=condition).save(tmp_path / "x.png")
    assert prove(tmp_path / "x.png")[0] == 0


def test_what_another_backend_drew_is_proved(prove, tiny_bundle, photo, tmp_path):
    pytest.importorskip("openvino")
    with Pipeline.load(tiny_bundle, backend="openvino") as pipe:
        pipe.generate(str(photo), n=2, seed=3).save(tmp_path / "x.png")
    status, told = prove(tmp_path / "x.png")
    assert (status, told["marks"]["claim"]["source"]["backend"]) == (0, "openvino")


def test_a_stripped_file_is_found_again_by_its_seed(prove, result, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(plain(result.images[2]))
    status, told = prove(path, "--seeds", "0-9", "--samples", "0-3", "--truncation", 0.7)
    assert status == 0
    assert (told["how"], told["seed"], told["sample"], told["tried"]) == ("search", 7, 2, 40)
    assert told["marks"]["kind"] == "none"


def test_an_instance_of_the_bank_is_found_again(prove, tiny_bundle, tmp_path):
    with Pipeline.load(tiny_bundle) as pipe:
        wanted = int(pipe.bank.ids[3])
        image = pipe.generate_from(pipe.bank.embeddings[3], seed=5).images[0]
    path = tmp_path / "x.png"
    path.write_bytes(plain(image))
    status, told = prove(path, "--bank", "--seeds", "0-9", picture=None)
    assert (status, told["seed"], told["instance"]) == (0, 5, wanted)


@pytest.mark.parametrize("drawn", [0, 1])
def test_of_two_instances_that_are_much_alike_the_one_that_drew_it_is_named(tiny_bundle, result, drawn):
    other = result.embedding + np.random.default_rng(0).normal(0, 0.01, result.embedding.shape)
    twins = np.stack([result.embedding, other / np.linalg.norm(other)]).astype(np.float32)
    with Pipeline.load(tiny_bundle) as pipe:
        assert isinstance(pipe.chain, LocalChain)
        shown = jpeg(pipe.generate_from(twins[drawn], seed=3).images[0], 95)
        for mirrored in (False, True):
            given = np.ascontiguousarray(shown[:, ::-1]) if mirrored else shown
            for found in (0, 1):  # by the search
                candidate = Candidate(found, 3, 0, WHOLE, mirrored, 0.9)
                settings = Candidates(range(6), range(1), 1.0)
                assert _likest_twin(given, candidate, pipe.chain, twins, settings).instance == drawn


def test_a_search_that_begins_again_draws_nothing_twice(prove, result, tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(plain(result.images[0]))
    asked = ("--seeds", "0-9", "--truncation", 0.7, "--index", tmp_path / "index")
    first = prove(path, *asked)
    held = list((tmp_path / "index").iterdir())
    assert held
    from icgan_runtime.origin import recover

    monkeypatch.setattr(recover, "fingerprint", None)  # would be called for what is drawn
    assert prove(path, *asked) == first


def test_a_sheet_without_its_claim_is_said_to_need_cutting(prove, tiny_bundle, photo, tmp_path, capsys):
    sheet = tmp_path / "grid.png"
    command = ["generate", str(tiny_bundle), str(photo), "-n", "1", "--no-mark", "--out", str(sheet)]
    assert main(command) == 0
    capsys.readouterr()
    status, told = prove(sheet)
    assert status == 4
    assert any("cut one image out" in note for note in told["notes"])


def test_a_damaged_index_is_drawn_anew(prove, result, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(plain(result.images[0]))
    asked = ("--seeds", "0-9", "--truncation", 0.7, "--index", tmp_path / "index")
    first = prove(path, *asked)
    for file in (tmp_path / "index").iterdir():
        file.write_bytes(b"no array")
    assert prove(path, *asked) == first


def test_a_claim_that_lies_is_called_false_and_the_truth_is_found(prove, result, tmp_path):
    claim = result.claim(0, 1, result_sheet())
    path = tmp_path / "x.png"
    path.write_bytes(Mark(claim).encode(result.images[1], "PNG"))
    status, told = prove(path, "--seeds", "7-7", "--samples", "0-3", "--truncation", 0.7)
    assert (status, told["sample"]) == (0, 1)
    assert any("the claim is false" in note for note in told["notes"])


def result_sheet():
    from icgan_runtime.marks.claim import SINGLE

    return SINGLE


def test_a_picture_of_another_bundle_is_not_from_this_one(prove, foreign_bundle, photo, tmp_path):
    with Pipeline.load(foreign_bundle) as pipe:
        pipe.generate(str(photo), seed=1).save(tmp_path / "x.png")
    status, told = prove(tmp_path / "x.png", "--seeds", "0-9")
    assert (status, told["verdict"]) == (4, "not from this bundle")
    assert any("another model" in note for note in told["notes"])


def test_a_whole_embedding_in_the_file_needs_no_picture(prove, result, tmp_path):
    (path,) = result.save(tmp_path / "x.png", embedding="whole")
    assert prove(path, picture=None)[0] == 0


def test_without_an_embedding_the_question_cannot_be_answered(prove, result, tmp_path):
    (path,) = result.save(tmp_path / "x.png")
    status, words = prove(path, picture=None)
    assert status == 1
    assert "--picture, --embedding or --bank" in words


def test_a_hash_of_another_embedding_is_noted(prove, result, tmp_path):
    (path,) = result.save(tmp_path / "x.png", embedding="hash")
    other = tmp_path / "other.png"
    other.write_bytes(images.encode(np.full((9, 9, 3), 20, np.uint8)))
    told = prove(path, picture=other)[1]
    assert any("hash of its embedding" in note for note in told["notes"])


def test_the_page_shows_both_images_and_what_was_found(prove, result, tmp_path):
    (path,) = result.save(tmp_path / "x.png")
    prove(path, "--page", tmp_path / "proof.html")
    page = (tmp_path / "proof.html").read_text()
    assert page.count("<img") == 18
    assert "<h1>proved</h1>" in page


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """Pictures [count, 64, 64, 3] of soft noise at several scales, as natural pictures have it."""
    rng = np.random.default_rng(seed)
    layers = []
    for side in (4, 8, 16, 32):
        noise = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        grown = [
            np.asarray(Image.fromarray(each).resize((64, 64), Image.Resampling.BICUBIC)) for each in noise
        ]
        layers.append(np.stack(grown) * (side**-0.5))
    mixed = sum(layers)
    return np.clip(mixed / mixed.max() * 255, 0, 255).astype(np.uint8)


def jpeg(image, quality=75):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize("edit", ["jpeg", "half", "brighter"])
def test_features_hardly_move_by_ordinary_edits(edit):
    pictures = blobs(20)
    edits = {
        "jpeg": jpeg,
        "half": lambda image: images.resize(images.resize(image, 32), 64),
        "brighter": lambda image: (image * 0.5 + 60).astype(np.uint8),
    }
    edited = np.stack([edits[edit](picture) for picture in pictures])
    likeness = features(grey(pictures), FINE) @ features(grey(edited), FINE).T
    strangers = likeness[~np.eye(20, dtype=bool)]
    assert np.diag(likeness).min() > 0.9
    assert strangers.max() < 0.6


def test_a_crop_is_recognised_and_placed():
    picture = blobs(1)
    seen = View(removed_x=3, removed_y=2, left=2, top=0.5).crop(picture)
    grid, target = grey(seen), features(grey(picture), COARSE)[0]
    assert features(grid, FINE)[0] @ features(grey(picture), FINE)[0] < 0.9
    assert max(features(grid, COARSE, view)[0] @ target for view in views()) > 0.95
    assert refine(grid, grey(picture)) == View(removed_x=3, removed_y=2, left=2, top=0.5)


@pytest.mark.parametrize(
    "box", [(2, 2, 62, 62), (0, 0, 62, 62), (3, 3, 61, 61), (0, 5, 62, 64), (1, 0, 64, 63)]
)
def test_a_crop_is_placed_to_the_pixel_also_after_jpeg(box):
    picture = blobs(1)
    cut = jpeg(np.stack([np.asarray(Image.fromarray(each).crop(box)) for each in picture])[0])
    found = refine(grey(images.resize(cut, 64)[None]), grey(picture))
    left, top, right, lower = box
    assert found == View(64 - right + left, 64 - lower + top, left, top)


def test_the_first_view_is_the_whole():
    assert views()[0] == WHOLE


def test_the_null_lies_above_what_strangers_show():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 30))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows @ rows.T)[np.triu_indices(600, 1)].astype(np.float32)
    null = fit(cosines[:20_000])
    for share in (1e-2, 1e-3, 1e-4):
        high = float(np.quantile(cosines[20_000:], 1 - share))
        assert null.probability(high, 1) >= share
    assert null.probability(0.95, 1) < 1e-6
