import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from icgan_export import bundle as bundle_module
from icgan_export import graphs as graphs_module
from icgan_export.check import samples as samples_module
from icgan_export.check.verify import verify
from icgan_export.cli import main
from icgan_export.errors import ExportError
from icgan_export.lower.bounds import PSNR
from icgan_export.lower.compare import compared
from icgan_export.lower.onnx_export import count_operators
from icgan_export.lower.trial import lower
from icgan_export.source.instances import choose_instances
from icgan_export.source.runs import read_run
from icgan_runtime import Pipeline
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.info import describe, render
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import read_prior
from icgan_runtime.cli import main as icgan
from icgan_runtime.search.novelty import outside_below


def test_a_bundle_is_whole_and_every_file_is_listed(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    bundle.verify_files()
    assert bundle.unlisted_files() == []
    assert bundle.manifest.parity["passed"] is True
    assert not list(tiny_bundle.parent.glob(".*"))


def test_the_runtime_draws_the_pinned_pictures_from_it(tiny_bundle: Path) -> None:
    samples = np.load(tiny_bundle / "samples.npz")
    with Pipeline.load(tiny_bundle) as pipe:
        result = pipe.generate(samples["picture"][0], n=1, seed=0, truncation=0.9)
    expected = np.rint((samples["image"][0] + 1) * 127.5).transpose(1, 2, 0)
    assert np.abs(result.images[0] - expected).max() <= 1
    assert result.neighbours.ids.tolist() == samples["ids"][0].tolist()


def test_the_instances_are_found_by_their_own_embeddings(tiny_bundle: Path) -> None:
    bank = np.load(tiny_bundle / "bank" / "embeddings.npy")
    with Pipeline.load(tiny_bundle) as pipe:
        ids, scores = pipe.search(bank, k=1)
    assert ids[:, 0].tolist() == list(range(len(bank)))
    np.testing.assert_allclose(scores, 1, atol=1e-5)


def test_the_licence_of_the_weights_is_shown_by_info_and_the_model_card(tiny_bundle: Path) -> None:
    assert "licence    CC0-1.0" in render(describe(Bundle.open(tiny_bundle)))
    assert "Weights: CC0-1.0" in (tiny_bundle / "README.md").read_text()


def test_a_bank_too_large_for_a_graph_is_bundled_without_one_and_found_by_the_others(
    tiny_run: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(graphs_module, "fits_graph", lambda embeddings: False)
    large = tmp_path / "bundle"
    assert main(["bundle", str(tiny_run), "--out", str(large), "--neighbours", "4"]) == 0
    said = capsys.readouterr()
    assert "no lookup.onnx: 12 instances are more than one ONNX file holds; faiss finds them" in said.err
    assert not (large / "lookup.onnx").exists()
    assert icgan(["info", "--verify", str(large)]) == 0
    with Pipeline.load(tiny_bundle) as usual, Pipeline.load(large) as pipe:
        bank = np.load(tiny_bundle / "bank" / "embeddings.npy")
        np.testing.assert_array_equal(pipe.search(bank, k=4)[0], usual.search(bank, k=4)[0])
    assert main(["triton", str(large), "--out", str(tmp_path / "faiss"), "--search", "faiss-ivf"]) == 0
    capsys.readouterr()
    assert main(["triton", str(large), "--out", str(tmp_path / "graph"), "--search", "graph"]) == 1
    expected = f"--search graph: {large} has no lookup.onnx, its bank is too large: faiss-ivf or faiss\n"
    assert capsys.readouterr().err.endswith(expected)


def test_a_precision_that_misses_its_bound_is_named_and_the_others_are_written(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """No choice of nodes holds the generator's bound at bf16, and int8 misses one once it is written."""

    def lower_all_but_one(graph, precision, ranges, trial):
        if precision == "bf16" and graph.graph.output[0].name == "image":
            raise ExportError("even with every product in float32 the loss is 2")
        return lower(graph, precision, ranges, trial)

    def verify_with_a_miss(folder):
        missed = compared("generator", "int8", PSNR, 12.0)
        report = verify(folder)
        return dataclasses.replace(report, comparisons=(*report.comparisons, missed))

    monkeypatch.setattr(graphs_module, "lower", lower_all_but_one)
    monkeypatch.setattr(bundle_module, "verify", verify_with_a_miss)
    out = tmp_path / "bundle"
    assert main(["bundle", str(tiny_run), "--precision", "fp32,bf16,int8", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert f"wrote {out} without bf16, int8" in said.out
    assert "icgan-export: bf16 is left out (generator: even with every product" in said.err
    assert "icgan-export: int8 is left out (generator at int8: PSNR, dB is 12, allowed >= 25)" in said.err
    bundle = Bundle.open(out)
    assert {entry.precision for entry in bundle.manifest.graphs} == {"fp32"}
    bundle.verify_files()
    assert bundle.unlisted_files() == []
    assert bundle.manifest.parity["passed"] is True


def test_sub_folders_become_labels(tiny_bundle: Path) -> None:
    labels = np.load(tiny_bundle / "bank" / "labels.npy")
    assert labels.tolist() == [0] * 6 + [1] * 6
    assert Bundle.open(tiny_bundle).manifest.provenance["bank"]["class_names"] == ["cold", "warm"]


def test_instances_are_named_by_their_files_and_the_bundle_says_what_is_unlike_them(
    tiny_run: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    said = Bundle.open(tiny_bundle).manifest.provenance["bank"]
    with Pipeline.load(tiny_bundle) as pipe:
        near = pipe.nearest(pipe.bank.embeddings[3])[0]
        assert pipe.bank.stated_limit == said["outside_below"] == outside_below(pipe.bank)
    files = sorted(path.relative_to(tiny_run / "instances") for path in (tiny_run / "instances").glob("*/*"))
    assert near.names is not None
    assert near.names[0] == str(files[3])
    assert near.title(0) == near.names[0]
    assert main(["bundle", str(tiny_run), "--out", str(tmp_path / "b"), "--no-names"]) == 0
    assert not list((tmp_path / "b").rglob("name*"))
    with Pipeline.load(tmp_path / "b") as pipe:
        near = pipe.nearest(pipe.bank.embeddings[3])[0]
        assert (near.names, near.title(0)) == (None, "cold no. 3")


def test_pictures_that_hardly_differ_keep_their_neighbours_at_eight_bits(
    tiny_run: Path, tmp_path: Path
) -> None:
    """Within the bound on the cosine alone, INT8 finds the nearest of these for 7 of 12."""
    rng = np.random.default_rng(0)
    shared = rng.integers(40, 216, (32, 32, 3))
    (tmp_path / "alike").mkdir()
    for number in range(60):
        picture = (shared + rng.integers(-12, 13, shared.shape)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "alike" / f"{number:02}.png")
    command = ["bundle", str(tiny_run), "--bank", str(tmp_path / "alike"), "--precision", "fp32,int8"]
    assert main([*command, "--out", str(tmp_path / "bundle")]) == 0
    [int8] = [
        entry
        for entry in Bundle.open(tmp_path / "bundle").manifest.graphs
        if (entry.role, entry.precision) == ("encoder", "int8")
    ]
    assert int8.kept_fp32, "what stays in float32 is listed"


def test_generator_graph_has_no_power_step_and_takes_any_batch(tiny_bundle: Path) -> None:
    model = onnx.load(tiny_bundle / "generator.onnx")
    operators = count_operators(model)
    assert sum(operators.values()) < 100
    assert "ReduceSum" not in operators
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert {entry.key for entry in model.metadata_props} >= {"icgan.identity", "icgan.licence", "icgan.dim_z"}


def test_the_encoder_graph_has_batch_norm_inside_its_convolutions(tiny_bundle: Path) -> None:
    operators = count_operators(onnx.load(tiny_bundle / "encoder.onnx"))
    assert "BatchNormalization" not in operators
    assert "Resize" not in operators


@pytest.mark.parametrize(("coding", "size"), [("float16", 2), ("int8", 1)])
def test_a_bundle_with_smaller_embeddings_answers_by_the_stored_rows_everywhere(
    tiny_run: Path, tmp_path: Path, coding: str, size: int
) -> None:
    out = tmp_path / "small"
    assert (
        main(["bundle", str(tiny_run), "--out", str(out), "--neighbours", "4", "--embeddings", coding]) == 0
    )
    bank = Bank.of_bundle(Bundle.open(out))
    assert (out / "bank" / "embeddings.npy").stat().st_size == 128 + bank.embeddings.size * size
    assert not verify(out).failures
    with np.load(out / "samples.npz") as samples:
        embedding = samples["embedding"]
    graph = onnxruntime.InferenceSession(out / "lookup.onnx", providers=["CPUExecutionProvider"])
    ids, scores = graph.run(["ids", "scores"], {"embedding": embedding})
    with Pipeline.load(out, search="numpy") as pipe:
        found = pipe.search(embedding, k=4)
    assert np.array_equal(found[0], ids)
    np.testing.assert_allclose(found[1], scores, atol=1e-6)


def test_another_bank_and_fewer_instances_on_request(tiny_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "pictures"
    shutil.copytree(tiny_run / "instances" / "cold", other)
    chosen = choose_instances(read_run(tiny_run), other, 3, 4)
    assert len(chosen.ids) == 3
    assert chosen.labels is None
    assert len(chosen.queries) == 3  # the held-out ones


def test_a_bundle_with_a_prior_alone_stores_nothing_of_a_picture(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert main(["bundle", str(tiny_run), "--out", str(out), "--prior", "2", "--no-instances"]) == 0
    bundle = Bundle.open(out)
    bank, pictures = Bank.of_bundle(bundle), choose_instances(read_run(tiny_run), None, 12, 4)
    prior = read_prior(bundle)
    assert prior is not None
    assert prior.least >= 5
    assert bank.thumbnails is None
    assert [*bank.names.pick(np.arange(len(bank)))] == [f"mean of {count} pictures" for count in prior.counts]
    stored = [bank.embeddings, prior.centres, np.load(out / "samples.npz")["embedding"]]
    for rows in stored:
        assert (rows @ pictures.embeddings.T).max() < 0.99999
    assert "  prior      " in render(describe(bundle))
    assert f"{len(prior)} groups of {prior.least} or more of 12 pictures" in " ".join(
        (out / "README.md").read_text().split()
    )
    with Pipeline.load(out) as pipe:
        assert pipe.generate(n=3).images.shape == (3, 32, 32, 3)
        assert len(pipe.generate(pictures.pictures[0]).neighbours.ids) == len(bank)


def test_a_graph_that_misses_its_bound_leaves_no_bundle(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = samples_module.make_samples

    def shifted(*arguments):
        samples = whole(*arguments)
        samples.image[...] = np.clip(samples.image + 0.01, -1, 1)
        return samples

    monkeypatch.setattr(bundle_module, "make_samples", shifted)
    out = tmp_path / "bundle"
    assert main(["bundle", str(tiny_run), "--out", str(out)]) == 1
    assert list(tmp_path.iterdir()) == []
    assert "MISSED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bundle", "nowhere", "--out", "b"], "no run directory"),
        (["bundle", "nowhere", "--out", "b", "--precision", "fp8"], "--precision fp8: choose from"),
        (["bundle", "nowhere", "--out", "b", "--neighbours", "0"], "--neighbours is 0"),
        (["bundle", "nowhere", "--out", "b", "--neighbours", "1025"], "at least 1 and at most 1024"),
        (["bundle", "nowhere", "--out", "b", "--instances", "0"], "--instances is 0, it must be at least 1"),
        (["bundle", "nowhere", "--out", "b", "--thumbnails", "-1"], "--thumbnails is -1"),
        (["bundle", "nowhere", "--out", "b", "--prior", "-1"], "--prior is -1, it must be at least 0"),
        (["bundle", "nowhere", "--out", "b", "--no-instances"], "give --prior K too, such as --prior 64"),
        (["bundle", "nowhere", "--out", "b", "--precision", " fp16,"], "--precision must include fp32"),
        (["onnx", "nowhere", "--out", "missing/g.onnx"], "nowhere is no run directory"),
        (["onnx", "nowhere", "--out", "."], "--out . is a folder: name a file in it"),
        (["onnx", "nowhere", "--out", "g.md"], "a page of this name comes beside the graph"),
        (["engine", "b", "--roles", "encodr"], "--roles encodr: choose from encoder, lookup, generator"),
        (["engine", "b", "--precision", "fp99"], "--precision fp99: choose from fp32, fp16, bf16, int8"),
        (["verify", "nowhere"], "no such folder"),
        (["verify", "nowhere", "--html", "missing/page.html"], "there is no folder missing"),
        (["verify", "nowhere", "--html", "."], "--html . is a folder: name a file in it"),
        (["verify", "nowhere", "--samples", "1"], "--samples is 1, it must be at least 2"),
        (["verify", "nowhere", "--samples", "100"], "name a prepared data set with --fid"),
        (["verify", "b", "--bisect", "g.onnx", "--html", "v.html"], "--html is of the whole verification"),
        (["verify", "b", "--bisect", "g.onnx", "--fid", "data"], "--fid is of the whole verification"),
        (["verify", "b", "--bisect", "g.onnx", "--json"], "--json is of the whole verification"),
        (["verify", "b", "--run", "runs/mine"], "name the graph with --bisect"),
        (["triton", "nowhere", "--out", "r", "--queue-delay-us", "-1"], "queue_delay_us: -1, expected"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("icgan-export: ")


def test_a_folder_that_is_no_bundle_is_not_overwritten(tiny_run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "holiday.jpg").touch()
    assert main(["bundle", str(tiny_run), "--out", str(tmp_path)]) == 1
    assert "is no bundle" in capsys.readouterr().err
    assert (tmp_path / "holiday.jpg").exists()


def test_info_says_what_one_picture_costs(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    text = render(describe(bundle))
    costs = bundle.manifest.bench["costs"]
    assert costs.keys() == {entry.file for entry in bundle.manifest.graphs}
    assert text.count("one picture: ") == len(costs)
    millions = costs["generator.onnx"]["multiply_adds"] / 1e6
    assert f"one picture: {millions:.1f} M multiply-adds, activations of" in text


def test_info_takes_any_report_for_what_it_is(tiny_bundle: Path) -> None:
    facts = describe(Bundle.open(tiny_bundle))
    reports: list[object] = [[], {"generator.onnx": 3}, {"generator.onnx": {"multiply_adds": "many"}}]
    for strange in reports:
        assert "one picture: " not in render(facts | {"bench": {"costs": strange}})
