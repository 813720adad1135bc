"""Runs from the command line: what stands in the folder, and that it is the same whoever wrote it when."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.marks.mark import read_marks
from icgan_runtime.synthesize.reading import Variants
from icgan_runtime.synthesize.recipe import read_recipe
from icgan_runtime.synthesize.work import Worker
from tests.runtime.synthesize.conftest import COUNT, shards

FORMATS = ("webdataset", "parquet", "files")


@pytest.mark.parametrize("form", FORMATS)
def test_variants_are_what_generate_gives_for_the_seed_and_sample_that_they_name(
    synthesize, tiny_bundle, photos, tmp_path, form
):
    status, printed, _ = synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 3, "--format", form)
    assert status == 0
    assert "wrote 15 variants" in printed
    variants = Variants(tmp_path / "out")
    assert len(variants) == 3 * COUNT
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        for item in (variants[0], variants[7], variants[-1]):
            result = pipe.generate(photos / item["instance"], n=3, seed=item["seed"])
            apart = np.abs(result.images[item["sample"]].astype(int) - item["image"])
            assert apart.max() <= 1  # batches of another size
            assert item["label"] == item["instance"].startswith("dogs")


def test_each_instance_has_noise_of_its_own_that_stays_when_others_join(
    synthesize, tiny_bundle, photos, tmp_path
):
    synthesize(tiny_bundle, photos, tmp_path / "before", "--per", 2)
    (photos / "cats" / "0a.png").write_bytes((photos / "cats" / "0.png").read_bytes())
    synthesize(tiny_bundle, photos, tmp_path / "after", "--per", 2)
    before, after = (
        {
            (item["instance"], item["sample"]): item
            for item in map(Variants(tmp_path / name).__getitem__, range(n))
        }
        for name, n in (("before", 10), ("after", 12))
    )
    assert len({item["seed"] for item in after.values()}) == COUNT + 1
    for key, item in before.items():
        assert after[key]["seed"] == item["seed"]
        assert np.abs(after[key]["image"].astype(int) - item["image"]).max() <= 1


@pytest.mark.parametrize("form", FORMATS)
def test_commands_that_share_the_work_write_the_bytes_of_one(synthesize, tiny_bundle, photos, tmp_path, form):
    how = ("--per", 2, "--shard", 2, "--format", form)
    synthesize(tiny_bundle, photos, tmp_path / "one", *how)
    _, printed, _ = synthesize(tiny_bundle, photos, tmp_path / "two", *how, "--part", "0/2")
    assert "not complete" in printed
    _, printed, _ = synthesize(tiny_bundle, photos, tmp_path / "two", *how, "--part", "1/2")
    assert "complete, see SHA256SUMS" in printed
    assert shards(tmp_path / "one") == shards(tmp_path / "two")


def test_a_lost_shard_is_made_again_and_the_others_stay(synthesize, tiny_bundle, photos, tmp_path):
    out, how = tmp_path / "out", ("--per", 2, "--shard", 2)
    synthesize(tiny_bundle, photos, out, *how)
    whole = shards(out)
    lost = sorted(out.glob("*.tar"))[2]
    lost.unlink()
    _, printed, _ = synthesize(tiny_bundle, photos, out, *how)
    assert "wrote 2 variants" in printed
    assert shards(out) == whole


def test_a_command_killed_in_the_middle_goes_on_to_the_same_bytes(tiny_bundle, photos, tmp_path, synthesize):
    how = ("--per", 40, "--shard", 40)
    synthesize(tiny_bundle, photos, tmp_path / "whole", *how)
    words = ["synthesize", tiny_bundle, "--from", photos, "--out", tmp_path / "out", "--threads", 1, *how]
    code = (  # killed as the third shard begins, as hard as can be
        "import os, signal, sys\n"
        "from icgan_runtime.cli import main\n"
        "from icgan_runtime.synthesize import work\n"
        "make = work.Worker.make\n"
        "def dying(self, number):\n"
        "    if number == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return make(self, number)\n"
        "work.Worker.make = dying\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2
    (recipe,) = {path.name.split("-")[0] for path in (tmp_path / "out").glob("*.tar")}
    (tmp_path / "out" / f".{recipe}-00000002.0a1b2c3d.tar").write_bytes(b"half")
    _, printed, _ = synthesize(tiny_bundle, photos, tmp_path / "out", *how)
    assert "wrote 120 variants" in printed
    assert list((tmp_path / "out").glob(".*")) == []
    assert shards(tmp_path / "whole") == shards(tmp_path / "out")


def test_the_sums_are_those_of_the_files(synthesize, tiny_bundle, photos, tmp_path):
    synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 1, "--shard", 2)
    lines = (tmp_path / "out/SHA256SUMS").read_text().splitlines()
    assert len(lines) == 3
    for line in lines:
        said, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == said


def test_the_best_of_many_are_kept_best_first(synthesize, tiny_bundle, photos, tmp_path):
    how = ("--scorer", "similarity", "--truncation", "none")
    synthesize(tiny_bundle, photos, tmp_path / "all", "--per", 50, *how)
    synthesize(tiny_bundle, photos, tmp_path / "best", "--per", 3, "--best-of", 50, "--truncation", "none")
    everything, best = Variants(tmp_path / "all"), Variants(tmp_path / "best")
    for i in range(COUNT):
        scored = [everything[50 * i + j] for j in range(50)]
        wanted = sorted(scored, key=lambda item: (-item["score"], item["sample"]))[:3]
        assert [best[3 * i + j]["sample"] for j in range(3)] == [item["sample"] for item in wanted]
        with Pipeline.load(tiny_bundle, threads=1) as pipe:
            near = pipe.embed([best[3 * i]["image"]]) @ pipe.embed([photos / best[3 * i]["instance"]]).T
        assert best[3 * i]["score"] == pytest.approx(near.item(), abs=1e-4)


def test_an_onnx_file_can_be_the_scorer(synthesize, tiny_bundle, photos, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["score"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    picture = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(nodes, "brightness", [picture], [score], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "brightness.onnx")
    synthesize(
        tiny_bundle,
        photos,
        tmp_path / "out",
        "--per",
        2,
        "--best-of",
        9,
        "--scorer",
        tmp_path / "brightness.onnx",
    )
    for item in Variants(tmp_path / "out"):
        assert item["score"] == pytest.approx(item["image"].mean(), abs=0.01)


def test_pictures_say_that_they_are_generated_unless_told_not_to(synthesize, tiny_bundle, photos, tmp_path):
    synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 1, "--format", "files", "--image", "jpeg")
    path = min((tmp_path / "out").rglob("*.jpg"))
    marks = read_marks(path.read_bytes())
    assert marks.generated
    about = json.loads((path.parent / "metadata.jsonl").read_text().splitlines()[0])
    assert marks.claim is not None
    assert (marks.claim.seed, marks.claim.first) == (about["seed"], about["sample"])
    assert about["marking"] == "xmp:trainedAlgorithmicMedia"
    synthesize(tiny_bundle, photos, tmp_path / "bare", "--per", 1, "--format", "files", "--no-mark")
    path = min((tmp_path / "bare").rglob("*.png"))
    assert not read_marks(path.read_bytes()).generated
    assert json.loads((path.parent / "metadata.jsonl").read_text().splitlines()[0])["marking"] == "none"


def test_another_recipe_in_the_same_folder_is_refused_and_says_in_what_it_differs(
    synthesize, tiny_bundle, photos, tmp_path
):
    synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 1)
    before = shards(tmp_path / "out")
    status, _, told = synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 2, "--seed", 4)
    assert status == 1
    assert told.splitlines()[-1].startswith("icgan: out: ")
    assert "another recipe (per, seed): name another folder" in told
    assert shards(tmp_path / "out") == before


def test_pictures_that_cannot_be_read_are_skipped_and_listed(synthesize, tiny_bundle, photos, tmp_path):
    (photos / "cats" / "1.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    status, printed, told = synthesize(tiny_bundle, photos, out, "--per", 2, "--shard", 4)
    assert status == 0
    assert "wrote 8 variants" in printed
    assert "skipped cats/1.png: " in told
    (listed,) = out.glob("*.skipped.jsonl")
    assert json.loads(listed.read_text())["instance"] == "cats/1.png"
    variants = Variants(out)
    assert len(variants) == 8
    assert "cats/1.png" not in {item["instance"] for item in variants}


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    synthesize, tiny_bundle, photos, tmp_path, monkeypatch
):
    import tarfile

    written = 0
    addfile = tarfile.TarFile.addfile

    def full(self, member, data=None):
        nonlocal written
        written += 1
        if written > 7:
            raise OSError(28, os.strerror(28))
        addfile(self, member, data)

    how = ("--per", 2, "--shard", 2)
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full)
        status, _, told = synthesize(tiny_bundle, photos, tmp_path / "out", *how)
    assert status == 1
    last = told.splitlines()[-1]
    assert last.startswith("icgan: out: ")
    assert "No space left on device" in last
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1
    assert synthesize(tiny_bundle, photos, tmp_path / "out", *how)[0] == 0
    synthesize(tiny_bundle, photos, tmp_path / "whole", *how)
    assert shards(tmp_path / "whole") == shards(tmp_path / "out")


def test_samples_of_one_instance_are_spread_over_shards_when_they_are_many(
    synthesize, tiny_bundle, photos, tmp_path
):
    synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 70, "--shard", 32)
    recipe = read_recipe(tmp_path / "out")
    assert (recipe.units, recipe.parts) == (3 * COUNT, 3)
    variants = Variants(tmp_path / "out")
    assert [variants[i]["sample"] for i in (0, 31, 32, 69, 70)] == [0, 31, 32, 69, 0]


def test_a_bank_and_an_array_give_the_same_variants_of_the_same_embeddings(synthesize, tiny_bundle, tmp_path):
    with Pipeline.load(tiny_bundle) as pipe:
        np.save(tmp_path / "rows.npy", np.array(pipe.bank.embeddings))
        ids, labels = pipe.bank.ids, pipe.bank.labels
    synthesize(tiny_bundle, "bank", tmp_path / "bank", "--per", 1)
    synthesize(tiny_bundle, tmp_path / "rows.npy", tmp_path / "array", "--per", 1)
    bank, array = Variants(tmp_path / "bank"), Variants(tmp_path / "array")
    assert [item["instance"] for item in bank] == [str(number) for number in ids]
    assert [item["label"] for item in bank] == labels.tolist()
    assert {item["label"] for item in array} == {-1}
    same = [i for i in range(len(bank)) if bank[i]["instance"] == array[i]["instance"]]
    for i in same:
        np.testing.assert_array_equal(bank[i]["image"], array[i]["image"])


def test_a_worker_with_other_programs_does_not_help(synthesize, tiny_bundle, photos, tmp_path, monkeypatch):
    from icgan_runtime.errors import RequestError
    from icgan_runtime.synthesize import work
    from icgan_runtime.synthesize.recipe import Settings

    synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 1)
    job = work.Job(str(photos), str(tmp_path / "out"), str(tiny_bundle), threads=1, settings=Settings(per=1))
    Worker.join(job).close()
    monkeypatch.setattr(work, "programs", lambda *_: {"pillow": "0.1"})
    with pytest.raises(RequestError, match="programs pillow"):
        Worker.join(job)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--per", 0], "per: 0, expected 1"),
        (["--per", 9, "--best-of", 4], "best-of: 4, fewer than the 9"),
        (["--best-of", 20, "--scorer", "none"], "scorer: none"),
        (["--scorer", "x.txt"], "scorer: 'x.txt', expected none, similarity or an .onnx file"),
        (["--label", "cycle"], "label: cycle: this model has no labels"),
        (["--label", "3"], "label: 3, expected none: this model has no labels"),
        (["--truncation", "2"], "truncation"),
        (["--seed", "-1"], "seed: -1, expected 0.."),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(synthesize, tiny_bundle, photos, tmp_path, options, words):
    status, _, told = synthesize(tiny_bundle, photos, tmp_path / "out", *options)
    assert status == 1
    assert words in told
    assert len(told.splitlines()) == 1


def test_sources_that_are_none_are_refused(synthesize, tiny_bundle, photos, tmp_path):
    for source, words in (
        (tmp_path / "nothing", "is neither a folder of pictures"),
        (tmp_path / "nothing.npy", "cannot be read"),
    ):
        status, _, told = synthesize(tiny_bundle, source, tmp_path / "out")
        assert (status, words in told) == (1, True)
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in synthesize(tiny_bundle, tmp_path / "empty", tmp_path / "out")[2]
    assert "name a folder outside" in synthesize(tiny_bundle, photos, photos / "out")[2]


def test_variants_of_an_unfinished_run_say_what_is_missing(synthesize, tiny_bundle, photos, tmp_path):
    from icgan_runtime.errors import RequestError

    synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 1, "--shard", 1, "--part", "0/2")
    with pytest.raises(RequestError, match=r"lacks .*-00000001\.tar"):
        Variants(tmp_path / "out")
    with pytest.raises(RequestError, match="holds no recipe"):
        Variants(Path(photos))
