"""Where instances come from."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from icgan_runtime.chain import LocalChain
from icgan_runtime.errors import RequestError
from icgan_runtime.synthesize.sources import list_pictures, open_source, read_listing
from tests.golden.make_commands import OUT

PHOTO = OUT.parent / "photo.jpg"


@pytest.fixture
def chain(tiny_bundle):
    opened = LocalChain.load(tiny_bundle, threads=1)
    yield opened
    opened.close()


def test_a_listing_of_many_pictures_is_read_from_any_place(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(2500):
        (folder / f"{i:04}.png").touch()
    list_pictures(folder, tmp_path / "listing")
    listing = read_listing(folder, tmp_path / "listing")
    assert len(listing) == 2500
    assert listing.names(range(1020, 1030)) == [f"{i:04}.png" for i in range(1020, 1030)]
    assert listing.names(range(2490, 2500))[-1] == "2499.png"


def test_a_listing_leaves_out_what_is_hidden_and_what_is_no_picture(tmp_path):
    for name in ("b/2.png", "b/.3.png", "_thumbs/4.png", ".git/5.png", "a/1.JPG", "a/notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos" / "a")
    list_pictures(tmp_path / "photos", tmp_path / "listing")
    listing = read_listing(tmp_path / "photos", tmp_path / "listing")
    assert listing.names(range(2)) == ["a/1.JPG", "b/2.png"]
    assert listing.class_names == ("a", "b")


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_that_are_no_text_are_read(tmp_path, chain):
    odd = os.fsdecode(b"caf\xe9\n.jpg")
    (tmp_path / "photos").mkdir()
    try:
        (tmp_path / "photos" / odd).write_bytes(PHOTO.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    source = open_source(str(tmp_path / "photos"), chain, tmp_path / "out", list_anew=True)
    assert source.read(range(1), chain).ids == [odd]


def test_a_prepared_data_set_gives_embeddings_and_labels(tmp_path, chain, tiny_bundle):
    rows = np.array(chain.bank.embeddings)
    np.save(tmp_path / "embeddings.npy", rows)
    np.save(tmp_path / "labels.npy", np.arange(len(rows)))
    about = {
        "count": len(rows),
        "class_names": [f"c{i}" for i in range(len(rows))],
        "encoder": {"sha256": chain.model.encoder.sha256},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    source = open_source(str(tmp_path), chain, tmp_path / "out", list_anew=True)
    some = source.read(range(3, 5), chain)
    np.testing.assert_array_equal(some.embeddings, rows[3:5])
    assert (some.ids, some.labels.tolist()) == (["3", "4"], [3, 4])
    about["encoder"] = {"sha256": "0" * 64}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(RequestError, match="prepared with another encoder"):
        open_source(str(tmp_path), chain, tmp_path / "out", list_anew=True)


def test_an_array_of_another_width_is_refused(tmp_path, chain):
    np.save(tmp_path / "rows.npy", np.ones((2, 3), np.float32))
    with pytest.raises(RequestError, match=r"float32\[2, 3\], the model says float32\[\*, 12\]"):
        open_source(str(tmp_path / "rows.npy"), chain, tmp_path, list_anew=True)


def test_a_picture_beside_class_folders_is_named_for_it_drops_the_labels(tmp_path, chain, capsys):
    for name in ("photos/cats/1.png", "photos/cover.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = open_source(str(tmp_path / "photos"), chain, tmp_path / "out", list_anew=True)
    assert source.class_names is None
    assert (
        "cover.jpg lies beside folders of pictures, so the folders are no classes" in capsys.readouterr().err
    )
    open_source(str(tmp_path / "photos"), chain, tmp_path / "out", list_anew=False)
    assert capsys.readouterr().err == ""  # each worker of a run would say it again
    (tmp_path / "photos" / "cover.jpg").unlink()
    source = open_source(str(tmp_path / "photos"), chain, tmp_path / "out", list_anew=True)
    assert (source.class_names, capsys.readouterr().err) == (("cats",), "")


@pytest.mark.skipif(os.name != "posix", reason="pipes and links that loop")
def test_what_is_not_looked_at_is_counted_and_links_that_loop_end_nothing(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("1.jfif", "2.dng", "3.dng", "notes"):
        (folder / name).touch()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe.jpg")
    said = list_pictures(folder, tmp_path / "listing")
    assert read_listing(folder, tmp_path / "listing").names(range(1)) == ["1.jfif"]
    (line,) = said
    for part in ("2 of .dng", "1 of no ending", "1 of links that lead nowhere", "1 of links to folders"):
        assert part in line
