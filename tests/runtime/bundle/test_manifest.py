import contextlib
import dataclasses
import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icgan_runtime.bundle.manifest import (
    MANIFEST_NAME,
    PRECISIONS,
    ROLES,
    BankEntry,
    EngineEntry,
    GraphEntry,
    KeptNode,
    Licence,
    Manifest,
    Model,
    Preprocessing,
    check_onnx_metadata,
    describe_files,
    graph_specs,
    onnx_metadata,
)
from icgan_runtime.bundle.strict_json import from_json, to_json
from icgan_runtime.errors import BindingError, BundleError
from icgan_runtime.identity import EncoderIdentity, FileEntry
from tests.models.make_models import tiny_model


@pytest.fixture
def value(tiny_bundle):
    """The manifest as plain JSON, free to be changed."""
    return json.loads((tiny_bundle / MANIFEST_NAME).read_text())


def parse(value) -> Manifest:
    return Manifest.from_bytes(json.dumps(value).encode())


def put(value, place, new):
    *path, last = place
    for key in path:
        value = value[key]
    value[last] = new


def test_a_written_manifest_reads_back_equal_and_byte_for_byte(tiny_bundle, tmp_path):
    manifest = Manifest.read(tiny_bundle)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert (tmp_path / MANIFEST_NAME).read_bytes() == (tiny_bundle / MANIFEST_NAME).read_bytes()


def test_files_are_described_with_size_and_hash(tiny_bundle):
    assert describe_files(tiny_bundle) == Manifest.read(tiny_bundle).files


def test_the_graph_of_highest_precision_is_the_default(tiny_bundle):
    manifest = Manifest.read(tiny_bundle)
    half = dataclasses.replace(manifest.graph("generator"), precision="fp16")
    both = dataclasses.replace(manifest, graphs=(half, *manifest.graphs))
    both.validate()
    assert both.graph("generator").precision == "fp32"
    assert both.graph("generator", "fp16") is half
    with pytest.raises(BundleError, match=r"no generator graph at int8; the bundle has \['fp16', 'fp32'\]"):
        both.graph("generator", "int8")


@pytest.mark.parametrize(
    ("place", "new", "message"),
    [
        (["format"], "zip", 'format is not "icgan-bundle"'),
        (["schema_version"], 3, "schema_version 3, this runtime reads 1 and 2"),
        (["schema_version"], True, "schema_version True"),
        (["surprise"], 1, "manifest: unknown key 'surprise'"),
        (["model"], None, "manifest.model: expected an object, got null"),
        (["model", "resolution"], "64", 'manifest.model.resolution: expected int, got "64"'),
        (["model", "resolution"], True, "manifest.model.resolution: expected int, got true"),
        (["model", "resolution"], 10**9, "model.resolution is 1000000000, expected 4..2048"),
        (["model", "dim_z"], 0, "model.dim_z is 0"),
        (["model", "classes"], -1, "model.classes is -1"),
        (["model", "class_names"], ["cat"], "1 names for 0 classes"),
        (["model", "name"], "\x1b[2J", "expected printable text"),
        (["model", "encoder", "sha256"], "00", "not a lower-case hex SHA-256"),
        (["model", "preprocessing", "resize"], "lanczos", "'lanczos', this runtime knows"),
        (["model", "preprocessing", "crop"], "none", "'none', this runtime knows .*squeeze"),
        (["graphs", 0, "role"], "discriminator", "role is 'discriminator'"),
        (["graphs", 0, "precision"], "fp8", "precision is 'fp8'"),
        (["graphs", 0, "opset"], 9, "opset is 9"),
        (["graphs", 0, "file"], "other.onnx", "'other.onnx' is not among the files"),
        (["graphs", 0, "inputs", 0, "dtype"], "float32", "the format says image uint8"),
        (["graphs", 0, "kept_fp32"], [{"node": "a"}], r"kept_fp32\[0\]: key 'reason' is missing"),
        (["graphs"], [], "no encoder graph at any precision"),
        (["bank", "neighbours"], 21, "bank.neighbours is 21, expected 1..20"),
        (["bank", "count"], 0, "bank.count is 0"),
        (["bank", "thumbnail_size"], 1 << 40, "bank.thumbnail_size"),
        (["bank", "thumbnail_size"], "4", 'bank.thumbnail_size: expected int or NoneType, got "4"'),
        (["files", "encoder.onnx", "bytes"], -1, "files.encoder.onnx.bytes is -1"),
        (["files", "encoder.onnx", "bytes"], 1 << 60, "files.encoder.onnx.bytes is"),
        (["metrics"], [], "manifest.metrics: expected an object"),
        (["provenance"], {"data": [{"set": "\x1b[2J"}]}, "provenance.data: expected no control characters"),
        (["bench"], {"costs": {"\x9b2J": 1}}, "bench.costs: expected no control characters"),
        (["parity"], {"\r": 1}, "manifest.parity: expected no control characters"),
        (["metrics"], {"fid": "\ud800"}, "metrics.fid: expected no control characters"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(value, place, new, message):
    put(value, place, new)
    with pytest.raises(BundleError, match=message):
        parse(value)


@pytest.mark.parametrize(
    ("place", "low", "high"),
    [
        (["model", "resolution"], 4, 2048),
        (["model", "dim_z"], 1, 65536),
        (["model", "encoder", "input_size"], 1, 2048),
        (["model", "preprocessing", "size"], 1, 2048),
        (["bank", "count"], 1, 1 << 32),
        (["bank", "neighbours"], 1, 20),
        (["bank", "thumbnail_size"], 1, 2048),
        (["files", "encoder.onnx", "bytes"], 0, 16 << 30),
        (["graphs", 0, "opset"], 17, 30),
        (["engines", 0, "max_batch"], 1, 4096),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_number_is_taken_up_to_its_bounds_and_no_further(value, place, low, high):
    engine = {"role": "encoder", "precision": "fp32", "file": "encoder.onnx", "compute_capability": "sm90"}
    space = value["bank"]["encoder_id"]
    value["bank"]["neighbours"] = 1
    value["engines"] = [{**engine, "tensorrt_version": "10.14.1", "max_batch": 1, "encoder_id": space}]
    for number, good in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
        changed = json.loads(json.dumps(value))
        put(changed, place, number)
        model = from_json(Model, changed["model"], "model")
        for part in (changed["bank"], *changed["graphs"], *changed["engines"]):
            part["encoder_id"] = model.encoder_id
        for graph in changed["graphs"]:
            specs = graph_specs(model, graph["role"], changed["bank"]["neighbours"])
            graph["inputs"], graph["outputs"] = to_json(specs[0]), to_json(specs[1])
        if good:
            parse(changed)
        else:
            with pytest.raises(BundleError, match=rf"{place[-1]} is {number}, expected"):
                parse(changed)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("compute_capability", "/tmp/sm90"),
        ("compute_capability", "../sm90"),
        ("compute_capability", "sm9"),
        ("compute_capability", "sm90\n"),
        ("tensorrt_version", "10.14/../1"),
        ("tensorrt_version", "10..1"),
        ("tensorrt_version", "new"),
        ("tensorrt_version", ""),
    ],
)
def test_a_plan_for_a_machine_that_cannot_be_is_refused(value, key, text):
    """The two stand in the name of a file that the exporter writes."""
    engine = {"role": "encoder", "precision": "fp32", "file": "encoder.onnx", "max_batch": 1}
    engine |= {"compute_capability": "sm120", "tensorrt_version": "10.7.0.post1"}
    value["engines"] = [engine | {"encoder_id": value["bank"]["encoder_id"]}]
    parse(value)
    value["engines"][0][key] = text
    with pytest.raises(BundleError, match=rf"engines\[encoder\.onnx\]\.{key} is .*, expected something like"):
        parse(value)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "a/",
        "",
        ".hidden",
        "C:\\x",
        "a\\b",
        "a\x00b",
        "é",
        "x" * 201,
        "a\n",
        "bank/../x",
        MANIFEST_NAME,
    ],
)
def test_a_name_that_could_leave_the_bundle_is_refused(value, name):
    value["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    with pytest.raises(BundleError, match="not a plain relative file name"):
        parse(value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe\x00",
        b"null",
        b"[" * 2_000,
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"9" * 9999,
    ],
)
def test_what_is_not_a_json_object_is_refused(text):
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_bytes(text)


def test_a_number_that_reads_as_infinity_is_refused(tiny_bundle):
    """It could not be written again, into a model repository for one."""
    value = json.loads(Manifest.read(tiny_bundle).to_bytes())
    text = json.dumps({**value, "metrics": {"fid": "?"}}).replace('"?"', "-1e999")
    with pytest.raises(BundleError, match=r"manifest\.json: not valid JSON \(-1e999 is too large a number\)"):
        Manifest.from_bytes(text.encode())


@pytest.mark.parametrize(("levels", "is_read"), [(32, True), (33, False), (400, False)])
def test_a_report_is_as_deep_as_it_can_be_shown_and_written_again(tiny_bundle, levels, is_read):
    value = json.loads(Manifest.read(tiny_bundle).to_bytes())
    nested = json.dumps({**value, "metrics": {"fid": "?"}}).replace('"?"', "[" * levels + "]" * levels)
    if is_read:
        assert Manifest.from_bytes(nested.encode()).to_bytes()
        return
    with pytest.raises(
        BundleError, match=r"manifest\.json: manifest\.metrics\.fid: expected at most 32 levels"
    ):
        Manifest.from_bytes(nested.encode())


def test_a_manifest_without_an_end_is_not_read(tiny_bundle, copy_bundle):
    bundle = copy_bundle(tiny_bundle)
    with (bundle / MANIFEST_NAME).open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleError, match="1073741824 bytes, at most"):
        Manifest.read(bundle)


def test_a_folder_that_is_no_bundle_is_refused_with_advice(tmp_path):
    with pytest.raises(
        BundleError, match=rf"^{tmp_path}: holds no manifest\.json; expected a bundle written by"
    ):
        Manifest.read(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        Manifest.read(tmp_path / "absent")


def test_the_encoder_id_depends_on_encoder_and_preprocessing_only():
    model = tiny_model()
    renamed = dataclasses.replace(model, name="another", resolution=16)
    assert renamed.encoder_id == model.encoder_id
    assert renamed.identity != model.identity
    assert tiny_model(side=16).encoder_id != model.encoder_id
    assert tiny_model(crop="squeeze").encoder_id != model.encoder_id
    assert tiny_model(encoder="other").encoder_id != model.encoder_id


def test_the_identity_is_the_hash_that_the_format_page_describes():
    model = tiny_model()
    text = json.dumps(to_json(model), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert model.identity == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("place", [["graphs", 0], ["graphs", 1], ["graphs", 2], ["bank"]])
def test_parts_of_another_embedding_space_are_refused(value, place):
    put(value, [*place, "encoder_id"], "0" * 64)
    with pytest.raises(BindingError, match="made for embedding space 000000000000, but encoder tiny"):
        parse(value)


def test_an_encoder_of_another_width_is_refused(value):
    value["model"]["encoder"]["embedding_dim"] = 99
    with pytest.raises(BindingError, match="takes embeddings of width 12, encoder tiny gives 99"):
        parse(value)


def test_graph_metadata_names_the_model_it_was_made_for():
    model, other = tiny_model(), tiny_model(encoder="other")
    metadata = onnx_metadata(model, "encoder", "fp32")
    check_onnx_metadata("encoder.onnx", metadata, model, "encoder")
    with pytest.raises(BindingError, match=r"encoder\.onnx: made for tiny"):
        check_onnx_metadata("encoder.onnx", metadata, other, "encoder")
    with pytest.raises(BindingError, match="calls it the encoder graph, the manifest the generator graph"):
        check_onnx_metadata("x.onnx", metadata, model, "generator")
    with pytest.raises(BindingError, match="made for no bundle at all"):
        check_onnx_metadata("x.onnx", {}, model, "encoder")


printable = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=12)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
file_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,9}(/[a-z0-9]{1,5}){0,2}", fullmatch=True)
reports = st.dictionaries(
    printable, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)


@st.composite
def manifests(draw) -> Manifest:
    """Any bundle that could be: names, sizes, classes, precisions, engines, reports."""
    width, classes = draw(st.integers(1, 1 << 16)), draw(st.integers(0, 4))
    model = Model(
        name=draw(printable),
        version=draw(printable),
        resolution=draw(st.integers(4, 2048)),
        dim_z=draw(st.integers(1, 1 << 16)),
        embedding_dim=width,
        classes=classes,
        class_names=draw(st.none() | st.tuples(*[printable] * classes)),
        encoder=EncoderIdentity(draw(printable), draw(hashes), draw(st.integers(1, 2048)), width),
        preprocessing=Preprocessing(draw(st.integers(1, 2048))),
        licence=Licence(draw(printable), draw(printable)),
    )
    count = draw(st.integers(1, 1 << 32))
    bank = BankEntry(
        encoder_id=model.encoder_id,
        count=count,
        neighbours=draw(st.integers(1, min(1024, count))),
        labelled=draw(st.booleans()),
        thumbnail_size=draw(st.none() | st.integers(1, 2048)),
        source=draw(printable),
        licence=draw(printable),
    )
    entries = st.builds(FileEntry, bytes=st.integers(0, 16 << 30), sha256=hashes)
    listed = draw(st.dictionaries(file_names, entries, min_size=1, max_size=5))
    names = st.sampled_from(sorted(listed))
    kept = st.lists(st.builds(KeptNode, node=printable, reason=printable), max_size=2).map(tuple)
    graphs = [
        GraphEntry(
            role,
            precision,
            draw(names),
            draw(st.integers(17, 30)),
            *graph_specs(model, role, bank.neighbours),
            model.encoder_id,
            draw(kept),
        )
        for role in ROLES
        for precision in draw(st.sets(st.sampled_from(PRECISIONS), min_size=1))
    ]
    engine = st.builds(
        EngineEntry,
        role=st.sampled_from(ROLES),
        precision=st.sampled_from(PRECISIONS),
        file=names,
        compute_capability=st.from_regex(r"sm[0-9]{2,3}", fullmatch=True),
        tensorrt_version=st.from_regex(r"[0-9]{1,3}(\.[0-9a-z]{1,5}){0,3}", fullmatch=True),
        max_batch=st.integers(1, 4096),
        encoder_id=st.just(model.encoder_id),
    )
    engines = draw(st.lists(engine, max_size=2).map(tuple))
    return Manifest(model, tuple(graphs), bank, listed, engines, *(draw(reports) for _ in range(4)))


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(manifests())
def test_any_manifest_reads_back_equal_and_byte_for_byte(manifest):
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data
    assert again.model.identity == manifest.model.identity


def test_every_graph_carries_the_metadata_that_the_format_page_lists():
    model = dataclasses.replace(tiny_model(classes=3, side=16), dim_z=7)
    assert onnx_metadata(model, "lookup", "fp16") == {
        "icgan.name": "tiny",
        "icgan.version": "1",
        "icgan.role": "lookup",
        "icgan.precision": "fp16",
        "icgan.resolution": "16",
        "icgan.dim_z": "7",
        "icgan.embedding_dim": "12",
        "icgan.classes": "3",
        "icgan.licence": "CC0-1.0",
        "icgan.identity": model.identity,
    }


def test_a_report_that_is_no_json_is_not_written(tiny_bundle):
    manifest = Manifest.read(tiny_bundle)
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(manifest, metrics={"fid": float("nan")}).to_bytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_but_never_crashes(tiny_bundle, data):
    value = json.loads((tiny_bundle / MANIFEST_NAME).read_text())
    place = value
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        deeper = isinstance(place[key], (dict, list)) and len(place[key]) > 0
        if not deeper or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(json_values)
    with contextlib.suppress(BundleError):
        manifest = parse(value)
        assert from_json(Manifest, to_json(manifest), "manifest") == manifest
