"""A repository written from a bundle: complete, verified, and able to hold several releases."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from icgan_export.cli import main
from icgan_runtime.bundle.manifest import EngineEntry, Manifest, describe_files
from icgan_runtime.errors import BindingError, IntegrityError, RepositoryError, RequestError
from icgan_runtime.server.models import ENSEMBLES
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.repository import add_release, read_releases, set_release, write_repository
from tests.models.make_models import make_bundle
from tests.triton.conftest import quiet

CHAIN = ("icgan_admit", "icgan_preprocess", "icgan_encoder", "icgan_condition", "icgan_generator")


@pytest.fixture
def repository(tiny_bundle, tmp_path) -> Path:
    write_repository(tiny_bundle, tmp_path / "repository", RepositoryOptions(), quiet)
    return tmp_path / "repository"


def served(repository: Path, model: str) -> list[set[int]]:
    """The versions that each form of a model serves."""
    folder = repository / model
    texts = [path.read_text() for path in (folder / "config.pbtxt", *folder.glob("configs/*.pbtxt"))]
    return [
        set(map(int, re.findall(r"specific {\s+versions: \[([\d, ]+)\]", text)[0].split(",")))
        for text in texts
    ]


def pinned(repository: Path) -> dict[str, int]:
    text = (repository / "icgan" / "config.pbtxt").read_text()
    steps = re.findall(r'model_name: "(\w+)"\s+model_version: (\d+)', text)
    return {name: int(version) for name, version in steps}


def other_bank(bundle: Path, tmp_path: Path) -> Path:
    """The same bundle with its instances in another order of ids: another bank, nothing else."""
    other = Path(shutil.copytree(bundle, tmp_path / "other-bank"))
    donor = make_bundle(tmp_path / "donor", seed=5)
    shutil.rmtree(other / "bank")
    shutil.copytree(donor / "bank", other / "bank")
    shutil.copy(donor / "lookup.onnx", other)
    manifest = Manifest.read(other)
    dataclasses.replace(manifest, files=describe_files(other)).write(other)
    return other


def test_a_repository_holds_the_chain_the_ensembles_and_one_release(repository):
    folders = {path.name for path in repository.iterdir() if path.is_dir()}
    assert folders == {*CHAIN, "icgan_picture", *(ensemble.name for ensemble in ENSEMBLES)}
    assert read_releases(repository)["current"] == 1
    assert set(pinned(repository).values()) == {1}


def test_a_repository_survives_stores_that_keep_no_empty_folders(repository):
    """Git, object stores, archives without entries for folders."""
    assert [path for path in repository.rglob("*") if path.is_dir() and not any(path.iterdir())] == []


def test_a_damaged_bundle_leaves_no_repository(tiny_bundle, tmp_path):
    damaged = Path(shutil.copytree(tiny_bundle, tmp_path / "damaged"))
    graph = bytearray((damaged / "generator.onnx").read_bytes())
    graph[-1] ^= 1
    (damaged / "generator.onnx").write_bytes(graph)
    with pytest.raises(IntegrityError, match=r"generator\.onnx"):
        write_repository(damaged, tmp_path / "repository", RepositoryOptions(), quiet)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("name", ["encoder.onnx", "generator.onnx", "lookup.onnx"])
def test_a_graph_of_another_model_is_refused_though_its_hash_is_listed(tiny_bundle, tmp_path, name):
    donor = make_bundle(tmp_path / "donor", encoder="other")
    mixed = Path(shutil.copytree(tiny_bundle, tmp_path / "mixed"))
    shutil.copy(donor / name, mixed)
    dataclasses.replace(Manifest.read(mixed), files=describe_files(mixed)).write(mixed)
    with pytest.raises(BindingError, match=rf"^{name}: made for tiny"):
        write_repository(mixed, tmp_path / "repository", RepositoryOptions(search="graph"), quiet)
    assert not (tmp_path / "repository").exists()


def test_a_bundle_without_plans_says_that_a_gpu_will_run_onnx(tiny_bundle, tmp_path):
    said: list[str] = []
    write_repository(tiny_bundle, tmp_path / "repository", RepositoryOptions(), said.append)
    assert [line.split(":")[0] for line in said] == ["icgan_encoder", "icgan_generator"]
    assert all("no TensorRT plan" in line for line in said)


def planned(bundle: Path, tmp_path: Path, releases: tuple[str, ...], max_batch: int = 32) -> Path:
    """The bundle with plans of these TensorRT releases, "trt10.9.0" say."""
    bundle = Path(shutil.copytree(bundle, tmp_path / "planned"))
    manifest, engines = Manifest.read(bundle), []
    for role in ("encoder", "generator"):
        for release in releases:
            file = f"engines/sm90-{release}/{role}.plan"
            (bundle / file).parent.mkdir(parents=True, exist_ok=True)
            (bundle / file).write_text(f"{role} {release}")
            space, version = manifest.model.encoder_id, release.lstrip("rtx")
            engines.append(EngineEntry(role, "fp16", file, "sm90", version, max_batch, space))
    dataclasses.replace(manifest, engines=tuple(engines), files=describe_files(bundle)).write(bundle)
    return bundle


def test_the_plans_of_a_bundle_are_served_by_compute_capability(tiny_bundle, tmp_path):
    bundle = planned(tiny_bundle, tmp_path, ("trt10.9.0", "trt10.14.1.48.post1"))
    write_repository(bundle, tmp_path / "repository", RepositoryOptions(), quiet)
    plan = tmp_path / "repository" / "icgan_generator" / "1" / "sm90-trt10.14.1.48.post1-fp16.plan"
    assert plan.read_text() == "generator trt10.14.1.48.post1", (
        "the newest TensorRT wins, by number and not by letter"
    )
    config = (tmp_path / "repository" / "icgan_generator" / "config.pbtxt").read_text()
    assert 'cc_model_filenames { key: "9.0" value: "sm90-trt10.14.1.48.post1-fp16.plan" }' in config


def test_a_cpu_is_not_given_graphs_it_cannot_run(tiny_bundle, tmp_path):
    with pytest.raises(RequestError, match=r"^cpu_precision: .bf16., which ONNX Runtime does not run"):
        RepositoryOptions(cpu_precision="bf16")


def test_plans_of_tensorrt_rtx_are_not_for_triton(tiny_bundle, tmp_path):
    said: list[str] = []
    bundle = planned(tiny_bundle, tmp_path, ("trtrtx1.2.0",))
    write_repository(bundle, tmp_path / "repository", RepositoryOptions(), said.append)
    assert len(said) == 2
    assert all("no TensorRT plan" in line for line in said)
    assert "tensorrt_plan" not in (tmp_path / "repository" / "icgan_generator" / "config.pbtxt").read_text()


def test_plans_for_smaller_batches_than_are_to_be_served_are_refused(tiny_bundle, tmp_path):
    bundle = planned(tiny_bundle, tmp_path, ("trt10.14.1",), max_batch=8)
    with pytest.raises(RepositoryError, match=r"encoder\.plan takes 8 rows: serve with --max-batch 8"):
        write_repository(bundle, tmp_path / "repository", RepositoryOptions(), quiet)
    write_repository(bundle, tmp_path / "repository", RepositoryOptions(max_batch=8), quiet)


def test_a_new_bank_is_a_new_version_of_the_models_that_read_it_and_of_no_other(
    repository, tiny_bundle, tmp_path
):
    to_load = add_release(other_bank(tiny_bundle, tmp_path), repository, quiet)
    assert {name for name, version in pinned(repository).items() if version == 2} == {"icgan_condition"}
    changed = {"icgan_condition", "icgan_picture"}  # the latter claims which bank it was
    assert set(to_load[:2]) == changed, "new versions first, the ensembles that use them last"
    assert to_load[2:] == [ensemble.name for ensemble in ENSEMBLES]


def test_a_release_can_be_taken_back(repository, tiny_bundle, tmp_path):
    before = pinned(repository)
    add_release(other_bank(tiny_bundle, tmp_path), repository, quiet)
    assert set_release(repository, 1) == [ensemble.name for ensemble in ENSEMBLES]
    assert pinned(repository) == before
    assert read_releases(repository)["current"] == 1


def test_the_release_before_is_served_beside_the_current_one_wherever_it_stands(
    repository, tiny_bundle, tmp_path
):
    """A server that loads what it is told to never drops a version that requests in flight still need."""
    bundles = [tiny_bundle, other_bank(tiny_bundle, tmp_path), make_bundle(tmp_path / "third", seed=7)]
    steps = [
        lambda: add_release(bundles[1], repository, quiet),
        lambda: set_release(repository, 1),
        lambda: add_release(bundles[2], repository, quiet),  # after a step back
        lambda: set_release(repository, 2),
        lambda: set_release(repository, 1),  # two steps back
        lambda: add_release(bundles[2], repository, quiet),  # an old bundle again
    ]
    for step in steps:
        before, old = pinned(repository), {name: served(repository, name) for name in CHAIN}
        loads = step()
        for name, version in pinned(repository).items():
            forms = served(repository, name)
            assert all({before[name], version} <= form and len(form) <= 2 for form in forms), name
            assert (repository / name / str(version)).is_dir()
            assert name in loads or forms == old[name], "what changed is loaded"


def test_the_same_bundle_again_adds_no_version(repository, tiny_bundle):
    add_release(tiny_bundle, repository, quiet)
    assert set(pinned(repository).values()) == {1}


def test_a_bundle_of_other_dimensions_is_refused_by_the_field_that_differs(repository, labelled_bundle):
    with pytest.raises(RepositoryError, match=r"^model.classes: 3 in .*, 0 in .* another --out$"):
        add_release(labelled_bundle, repository, quiet)


@pytest.mark.parametrize(
    ("here", "there", "remedy"),
    [
        ({"labelled": False}, {"labelled": True}, "a bank of pictures in one folder, without classes"),
        ({"labelled": True}, {"labelled": False}, "a bank of pictures in one folder for each class"),
        ({"neighbours": 3}, {"neighbours": 2}, "export it with --neighbours 3"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused_with_what_makes_it_fit(tmp_path, here, there, remedy):
    bundles = []
    for name, wanted in (("here", here), ("there", there)):
        bundle = make_bundle(tmp_path / name)
        (bundle / "lookup.onnx").unlink()  # which has a number of neighbours of its own
        if not wanted.get("labelled", True):
            (bundle / "bank" / "labels.npy").unlink()
            about = bundle / "bank" / "bank.json"
            about.write_text(json.dumps({**json.loads(about.read_text()), "labelled": False}))
        manifest = Manifest.read(bundle)
        bank = dataclasses.replace(manifest.bank, **wanted)
        graphs = tuple(entry for entry in manifest.graphs if entry.role != "lookup")
        dataclasses.replace(manifest, bank=bank, graphs=graphs, files=describe_files(bundle)).write(bundle)
        bundles.append(bundle)
    write_repository(bundles[0], tmp_path / "repository", RepositoryOptions(), quiet)
    before = (tmp_path / "repository" / "icgan.json").read_bytes()
    with pytest.raises(RepositoryError) as refused:
        add_release(bundles[1], tmp_path / "repository", quiet)
    [(field, value)] = there.items()
    assert str(refused.value).startswith(f"{field}: {json.dumps(value)} in {bundles[1]}, ")
    assert str(refused.value).endswith(remedy)
    assert (tmp_path / "repository" / "icgan.json").read_bytes() == before


def test_a_plan_where_the_releases_have_none_is_refused_by_what_would_change(
    repository, tiny_bundle, tmp_path
):
    with pytest.raises(
        RepositoryError, match=r"^icgan_encoder/config.pbtxt would change \(platform: .*--replace"
    ):
        add_release(planned(tiny_bundle, tmp_path, ("trt10.9.0",)), repository, quiet)


def test_engines_that_a_gpu_keeps_lie_in_a_folder_of_their_weights(tiny_bundle, tmp_path):
    """ONNX Runtime finds them by the names in a graph: other weights would be answered with the old ones."""
    options = RepositoryOptions(engine_cache="/engines/")
    folders = []
    for number, bundle in enumerate((tiny_bundle, make_bundle(tmp_path / "other", seed=5))):
        repository = tmp_path / f"repository{number}"
        write_repository(bundle, repository, options, quiet)
        for role in ("encoder", "generator"):
            config = (repository / f"icgan_{role}" / "config.pbtxt").read_text()
            assert 'key: "trt_engine_cache_enable" value: "1"' in config
            folders += re.findall(r'key: "trt_engine_cache_path" value: "(/engines/\w{16})"', config)
    assert len(set(folders)) == 4
    add_release(other_bank(tiny_bundle, tmp_path / "bank"), tmp_path / "repository0", quiet)
    with pytest.raises(RepositoryError, match=r"^icgan_encoder: other weights, .*write a new repository$"):
        add_release(tmp_path / "other", tmp_path / "repository0", quiet)


def test_no_engines_are_kept_unless_asked_for(repository):
    assert "trt_engine" not in (repository / "icgan_generator" / "config.pbtxt").read_text()


def test_releases_are_dropped_only_on_request(repository, tiny_bundle, tmp_path, capsys):
    add_release(other_bank(tiny_bundle, tmp_path), repository, quiet)
    asked = ["triton", str(tiny_bundle), "--out", str(repository)]
    before = (repository / "icgan.json").read_bytes()
    assert main(asked) == 1
    complaint = capsys.readouterr().err
    assert "holds the releases 1, 2: --add adds the bundle as the next one, --replace drops them" in complaint
    assert main([*asked, "--add", "--replace"]) == 1
    assert (repository / "icgan.json").read_bytes() == before
    assert main([*asked, "--replace"]) == 0
    assert len(read_releases(repository)["releases"]) == 1
    assert main(["triton", str(tiny_bundle), "--out", str(tmp_path / "new"), "--replace"]) == 0


@pytest.mark.parametrize("step", [["--add"], ["--release", "1"]])
def test_what_a_repository_was_made_with_is_not_changed_by_a_release(repository, tiny_bundle, capsys, step):
    assert main(["triton", str(tiny_bundle), "--out", str(repository), *step, "--max-batch", "8"]) == 1
    assert "--max-batch is for a new repository" in capsys.readouterr().err
    given = [str(tiny_bundle)] if step == ["--add"] else []
    assert main(["triton", *given, "--out", str(repository), *step]) == 0


@pytest.mark.parametrize("more", [["bundles/new"], ["--add"]])
def test_going_back_to_a_release_adds_none(repository, capsys, more):
    before = (repository / "icgan.json").read_bytes()
    assert main(["triton", "--release", "1", "--out", str(repository), *more]) == 1
    assert "holds: leave BUNDLE and --add out" in capsys.readouterr().err
    assert (repository / "icgan.json").read_bytes() == before


@pytest.mark.parametrize("number", [0, 2])
def test_an_unknown_release_is_refused(repository, number):
    with pytest.raises(RepositoryError, match=rf"release {number} is not in .*\[1\]"):
        set_release(repository, number)


def test_a_folder_that_is_no_repository_is_refused(tmp_path):
    with pytest.raises(RepositoryError, match="icgan-export triton"):
        read_releases(tmp_path)


def test_the_book_of_releases_is_plain_json(repository):
    book = json.loads((repository / "icgan.json").read_text())
    assert book["format"] == "icgan-triton"
    assert book["releases"][0]["model"]["name"] == "tiny"
