import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icgan_runtime import Bank, Pipeline
from icgan_runtime.backends.canned import CannedSession
from icgan_runtime.bundle.arrays import read_npz
from icgan_runtime.chain import LocalChain
from icgan_runtime.client.connection import ConnectionOptions
from icgan_runtime.errors import BindingError, DecodeError, MissingExtraError, NumericsError, RequestError
from icgan_runtime.latents import MAX_SEED, noise
from icgan_runtime.request import MAX_SAMPLES, Request
from icgan_runtime.rows import CONDITIONS, OWN_LABEL, Rows
from tests.models.make_models import instance_name

PHOTO = Path(__file__).parents[1] / "golden" / "photo.jpg"


@pytest.fixture(scope="module")
def pipe(tiny_bundle):
    with Pipeline.load(tiny_bundle, threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def labelled(labelled_bundle):
    with Pipeline.load(labelled_bundle, threads=1) as pipe:
        yield pipe


def test_a_photo_is_squeezed_for_a_model_that_was_trained_on_squeezed_pictures(squeezed_bundle):
    with Image.open(PHOTO) as opened:
        photo = opened.convert("RGB").crop((0, 0, 300, 120))
    with Pipeline.load(squeezed_bundle, threads=1) as pipe:
        side = pipe.model.preprocessing.size
        square = np.asarray(photo.resize((side, side), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(pipe.embed(photo), pipe.embed(square))


def test_generated_pictures_come_with_their_origin(pipe):
    result = pipe.generate(PHOTO, n=3, seed=5, truncation=0.7)
    assert result.images.shape == (3, 8, 8, 3)
    assert result.images.dtype == np.uint8
    assert result.embedding.shape == (12,)
    assert result.neighbours.ids.shape == result.neighbours.scores.shape == (5,)
    assert (np.diff(result.neighbours.scores) <= 0).all()
    assert result.request.truncation == np.float32(0.7)


def test_the_chain_gives_the_reference_outputs_of_the_bundle(pipe, tiny_bundle):
    samples = read_npz((tiny_bundle / "samples.npz").read_bytes(), "samples.npz")
    embedding = pipe.embed(list(samples["picture"]))
    np.testing.assert_allclose(embedding, samples["embedding"], atol=1e-5)
    ids, scores = pipe.search(embedding)
    np.testing.assert_array_equal(ids, samples["ids"])
    np.testing.assert_allclose(scores, samples["scores"], atol=1e-5)
    fed = {"noise": samples["noise"], "embedding": embedding[: len(samples["noise"])]}
    expected = np.round(np.clip((samples["image"] + 1) * 127.5, 0, 255)).transpose(0, 2, 3, 1)
    assert np.abs(pipe.chain.generator.run(fed)["image"] - expected).max() <= 1


def test_a_picture_and_its_embedding_generate_the_same(pipe):
    a = pipe.generate(PHOTO, n=2, seed=3)
    for embedding in (pipe.embed(PHOTO), a.embedding):
        b = pipe.generate_from(embedding, n=2, seed=3)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.neighbours.ids, b.neighbours.ids)


def test_by_default_one_picture_of_seed_0_within_the_bounds_of_the_paper(pipe, labelled):
    plain = Request(n=1, seed=0, truncation=1.0, condition="query", label=OWN_LABEL, first=0)
    for which in (pipe, labelled):
        assert which.generate(PHOTO).request == plain
        assert which.generate_from(which.embed(PHOTO)).request == plain
        (first,) = which.stream(PHOTO, n=1)
        assert first.request == plain
    assert [len(part.images) for part in pipe.stream(PHOTO, n=33)] == [32, 1]


def test_everything_asked_for_reaches_the_request(labelled):
    asked: dict[str, Any] = {"seed": 5, "truncation": 0.5, "condition": "nearest", "label": 2}
    expected = Request(n=3, first=7, **asked)
    assert labelled.generate(PHOTO, n=3, first=7, **asked).request == expected
    assert labelled.generate_from(labelled.embed(PHOTO), n=3, first=7, **asked).request == expected
    parts = [part.request for part in labelled.stream(PHOTO, n=3, batch=2, **asked)]
    assert parts == [Request(n=2, first=0, **asked), Request(n=1, first=2, **asked)]


def test_loading_keeps_what_was_chosen(tiny_bundle):
    with Pipeline.load(tiny_bundle) as usual, Pipeline.load(tiny_bundle, search="numpy", max_batch=3) as own:
        assert isinstance(usual.chain, LocalChain)
        assert isinstance(own.chain, LocalChain)
        assert (usual.chain.find.name, usual.chain.find.reason) == ("faiss", "installed")
        assert (own.chain.find.name, own.chain.find.reason) == ("numpy", "asked for")
        assert (usual.chain.max_batch, own.chain.max_batch) == (32, 3)


@pytest.mark.parametrize("max_batch", [0, -1])
def test_batches_without_rows_are_refused(tiny_bundle, max_batch):
    with pytest.raises(RequestError, match=rf"^max_batch: {max_batch}, expected at least 1$"):
        Pipeline.load(tiny_bundle, max_batch=max_batch)


def test_the_seed_decides_the_pictures(pipe):
    a, again, other = (pipe.generate(PHOTO, n=2, seed=seed).images for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert (a != other).any()


@settings(max_examples=20)
@given(
    n=st.integers(1, 9),
    max_batch=st.integers(1, 10),
    seed=st.integers(0, 2**63 - 1),
    truncation=st.none() | st.floats(0.1, 1),
    condition=st.sampled_from(["query", "nearest", "sample"]),
)
def test_a_picture_does_not_depend_on_its_batch(pipe, n, max_batch, seed, truncation, condition):
    embedding = pipe.embed(PHOTO)
    options = {"seed": seed, "truncation": truncation, "condition": condition}
    split = Pipeline(dataclasses.replace(pipe.chain, max_batch=max_batch))
    whole, parts = (p.generate_from(embedding, n=n, **options).images for p in (pipe, split))
    first = pipe.generate_from(embedding, n=1, **options).images
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert np.abs(whole[:1].astype(int) - first).max() <= 1


requests = st.builds(
    Request,
    n=st.integers(1, 4),
    seed=st.integers(0, MAX_SEED),
    truncation=st.floats(2**-10, 1, width=32) | st.just(np.inf),
    condition=st.sampled_from(CONDITIONS),
    label=st.just(OWN_LABEL) | st.integers(0, 2),
    first=st.integers(0, 2**40),
)


@settings(max_examples=30)
@given(wanted=st.lists(requests, min_size=1, max_size=5), data=st.data())
def test_requests_mixed_into_any_batches_give_the_pictures_they_give_alone(labelled, wanted, data):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(len(wanted), 12)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    chain = labelled.chain
    alone = np.concatenate(
        [chain.generate_from(query[None], ask).images for query, ask in zip(queries, wanted, strict=True)]
    )

    # every row of every request, shuffled, in batches of any size: what a server's dynamic batching may do
    several = [ask.rows(range(ask.n), 3) for ask in wanted]
    joined = {
        item.name: np.concatenate([getattr(rows, item.name) for rows in several])
        for item in dataclasses.fields(Rows)
    }
    embedding = queries.repeat([ask.n for ask in wanted], axis=0)
    ids, _ = chain.search(embedding, chain.neighbours)
    order = data.draw(st.permutations(range(len(alone))))
    mixed = np.empty_like(alone)
    while order:
        size = data.draw(st.integers(1, len(order)))
        batch, order = np.array(order[:size]), order[size:]
        rows = Rows(**{name: column[batch] for name, column in joined.items()})
        feeds = {
            "noise": rows.noise(chain.model),
            "embedding": rows.conditioning(embedding[batch], ids[batch], chain.bank),
            "label": rows.labels(ids[batch], chain.bank),
        }
        mixed[batch] = chain.generator.run(feeds)["image"]
    assert np.abs(mixed.astype(int) - alone).max() <= 1


def always(answer):
    """A reply that does not look at what was fed."""
    return lambda feeds: answer


def canned(pipe, picture=128) -> tuple[Pipeline, CannedSession]:
    """The pipeline with a generator that keeps what it is fed and paints everything in one grey."""
    inputs, outputs = pipe.chain.manifest.specs("generator")

    def paint(feeds):
        return {"image": np.full((len(feeds["noise"]), 8, 8, 3), picture, np.uint8)}

    session = CannedSession(inputs, outputs, paint)
    return Pipeline(dataclasses.replace(pipe.chain, generator=session)), session


def test_the_second_half_can_be_asked_for_alone(pipe):
    both = pipe.generate(PHOTO, n=8, seed=3, condition="sample").images
    second = pipe.generate(PHOTO, n=4, seed=3, condition="sample", first=4).images
    assert np.abs(second.astype(int) - both[4:]).max() <= 1


def test_a_stream_is_the_same_pictures_in_parts_and_embeds_once(pipe, monkeypatch):
    whole = pipe.generate(PHOTO, n=7, seed=3, truncation=0.5)
    embedded = []
    embed = LocalChain.embed

    def counted(chain, pictures):
        embedded.append(1)
        return embed(chain, pictures)

    monkeypatch.setattr(LocalChain, "embed", counted)
    parts = list(pipe.stream(PHOTO, n=7, seed=3, truncation=0.5, batch=3))
    assert [len(part.images) for part in parts] == [3, 3, 1]
    assert np.abs(np.concatenate([part.images for part in parts]).astype(int) - whole.images).max() <= 1
    assert len(embedded) == 1


@pytest.mark.parametrize(("n", "batch", "message"), [(0, 1, "n: 0"), (5, 0, "batch: 0")])
def test_a_stream_of_nothing_is_refused(pipe, n, batch, message):
    with pytest.raises(RequestError, match=message):
        next(pipe.stream(PHOTO, n=n, batch=batch))


def test_the_generator_is_fed_the_noise_of_the_contract(pipe):
    with_canned, session = canned(pipe)
    with_canned.generate(PHOTO, n=40, seed=9, truncation=0.5)
    assert [len(call["noise"]) for call in session.calls] == [32, 8]
    fed = np.concatenate([call["noise"] for call in session.calls])
    np.testing.assert_array_equal(fed, noise(9, np.arange(40), 0.5, 6))


def test_the_condition_decides_which_embedding_the_generator_sees(pipe):
    with_canned, session = canned(pipe)
    bank, query = pipe.chain.bank, pipe.embed(PHOTO)
    ids, _ = pipe.search(query)
    for condition in ("query", "nearest", "sample"):
        result = with_canned.generate(PHOTO, n=20, condition=condition)
        np.testing.assert_array_equal(result.neighbours.ids, ids[0])
    asked, nearest, drawn = (call["embedding"] for call in session.calls)
    np.testing.assert_array_equal(asked, query.repeat(20, axis=0))
    np.testing.assert_array_equal(nearest, bank.embeddings[ids[:, 0]].repeat(20, axis=0))
    stored = bank.embeddings[ids[0]]
    ranks = [int(np.flatnonzero((stored == row).all(axis=1))[0]) for row in drawn]
    assert set(ranks) == set(range(5))


def test_a_label_is_the_callers_or_that_of_the_instance(labelled):
    with_canned, session = canned(labelled)
    bank = labelled.chain.bank
    ids, _ = labelled.search(labelled.embed(PHOTO))
    with_canned.generate(PHOTO, n=2, label=1)
    with_canned.generate(PHOTO, n=2)
    with_canned.generate(PHOTO, n=20, condition="sample")
    given_label, nearest, drawn = (call["label"] for call in session.calls)
    assert given_label.tolist() == [1, 1]
    assert nearest.tolist() == [bank.labels[ids[0, 0]]] * 2
    stored = bank.embeddings[ids[0]]
    rows = [int(np.flatnonzero((stored == row).all(axis=1))[0]) for row in session.calls[2]["embedding"]]
    assert drawn.tolist() == bank.labels[ids[0]][rows].tolist()


def test_a_label_is_required_where_the_bank_has_none(labelled):
    bank = dataclasses.replace(labelled.chain.bank, labels=None)
    other = labelled.with_bank(bank)
    assert other.generate(PHOTO, label=2).neighbours.labels is None
    with pytest.raises(RequestError, match="label: must be given"):
        other.generate(PHOTO)


def test_labels_change_the_picture(labelled):
    a, b = (labelled.generate(PHOTO, label=label).images for label in (0, 1))
    assert (a != b).any()


def test_neighbours_carry_the_labels_of_the_bank(labelled):
    neighbours = labelled.generate(PHOTO).neighbours
    np.testing.assert_array_equal(neighbours.labels, neighbours.ids % 3)


def test_another_bank_changes_the_neighbours_only(pipe, tmp_path):
    old = pipe.chain.bank
    few = Bank(old.encoder_id, old.embeddings[:3], np.array([10, 20, 30]), None, None)
    few.write(tmp_path)
    for bank in (few, tmp_path):
        other = pipe.with_bank(bank)
        a, b = pipe.generate(PHOTO, n=2), other.generate(PHOTO, n=2)
        np.testing.assert_array_equal(a.images, b.images)
        assert sorted(b.neighbours.ids) == [10, 20, 30]
        other.close()
    assert pipe.generate(PHOTO).images.any(), "closing the borrower leaves the lender's sessions open"


def test_a_bank_of_another_encoder_is_refused(pipe, foreign_bundle):
    with pytest.raises(BindingError, match="bank: made for embedding space"):
        pipe.with_bank(foreign_bundle / "bank")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, r"n: 0, expected 1\.\.10000"),
        ({"n": MAX_SAMPLES + 1}, "n: 10001"),
        ({"n": 1.5}, "n: 1.5, expected a whole number"),
        ({"n": True}, "n: True, expected a whole number"),
        ({"seed": -1}, r"seed: -1, expected 0\.\.2\^63-1"),
        ({"seed": 2**63}, "seed: 9223372036854775808"),
        ({"seed": "1"}, "seed: '1', expected a whole number"),
        ({"truncation": 0}, r"truncation: 0, expected a number in \(0, 1\]"),
        ({"truncation": 1.5}, "truncation: 1.5"),
        ({"truncation": float("nan")}, "truncation: nan"),
        ({"truncation": float("inf")}, "truncation: inf"),
        ({"truncation": 1e-60}, "truncation: 1e-60"),
        ({"truncation": "high"}, "truncation: 'high'"),
        ({"condition": "random"}, "condition: 'random', expected one of query, nearest, sample"),
        ({"label": 1}, "label: 1, but this model has no labels; leave it out"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(pipe, arguments, message):
    with pytest.raises(RequestError, match=message):
        pipe.generate(PHOTO, **arguments)
    with pytest.raises(RequestError, match=message):
        pipe.generate_from(pipe.embed(PHOTO), **arguments)


@pytest.mark.parametrize("label", [-1, 3, 1.0, True])
def test_a_label_outside_the_classes_is_refused(labelled, label):
    with pytest.raises(RequestError, match=r"label: .*, expected (0\.\.2|a whole number)"):
        labelled.generate(PHOTO, label=label)


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        np.asfortranarray,
        lambda array: array[..., ::-1].copy()[..., ::-1],
        lambda array: np.repeat(array, 2, -1)[..., ::2],
    ],
    ids=["big-endian", "column by column", "backwards", "with gaps"],
)
def test_an_array_gives_the_same_pictures_however_it_lies_in_memory(pipe, laid_out):
    """ONNX Runtime reads big-endian numbers as others, without a word."""
    embedding = pipe.embed([PHOTO])
    given = laid_out(embedding)
    assert np.array_equal(given, embedding)
    expected = pipe.generate_from(embedding, n=2).images
    np.testing.assert_array_equal(pipe.generate_from(given, n=2).images, expected)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(pipe.embed([laid_out(picture)]), pipe.embed([picture]))


@pytest.mark.parametrize(
    "embedding",
    [
        np.zeros((1, 12), np.float32),
        np.full((1, 12), np.nan, np.float32),
        np.ones((1, 13), np.float32),
        np.ones((1, 12), np.int64),
        np.eye(12, dtype=np.float32)[:2],
        np.zeros((0, 12), np.float32),
        "text",
        None,
    ],
)
def test_an_embedding_that_is_none_is_refused(pipe, embedding):
    with pytest.raises(RequestError, match="embedding: "):
        pipe.generate_from(embedding)


@pytest.mark.parametrize(
    "picture", [None, 7, b"", b"not a picture", "absent.jpg", np.zeros((4, 4), np.uint8)]
)
def test_what_is_not_a_picture_is_refused(pipe, picture):
    with pytest.raises(RequestError, match="picture: "):
        pipe.generate(picture)


def test_one_bad_picture_among_good_ones_is_refused(pipe):
    with pytest.raises(DecodeError):
        pipe.embed([PHOTO, b"bad"])
    with pytest.raises(RequestError, match="pictures: none given"):
        pipe.embed([])


def test_a_black_picture_is_reported_as_nan_not_shown(pipe):
    broken, _ = canned(pipe, picture=0)
    with pytest.raises(NumericsError, match=r"^canned: image 0 of 1 is black throughout, the mark of NaN"):
        broken.generate(PHOTO)


def test_a_nan_embedding_is_reported(pipe):
    inputs, outputs = pipe.chain.manifest.specs("encoder")
    for value, message in ((np.nan, "embedding holds NaN or infinity"), (0.0, "embeddings of length 0")):
        encoder = CannedSession(inputs, outputs, always({"embedding": np.full((1, 12), value, np.float32)}))
        broken = dataclasses.replace(pipe.chain, encoder=encoder)
        with pytest.raises(NumericsError, match=message):
            Pipeline(broken).embed(PHOTO)


def test_talking_to_a_server_without_its_client_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "icgan_runtime.client.triton", None)
    with pytest.raises(MissingExtraError) as caught:
        Pipeline.connect("grpc://localhost:8001")
    assert str(caught.value) == "tritonclient is not installed: pip install 'icgan[triton]'"


def test_connecting_keeps_address_time_limit_retries_and_memory(monkeypatch):
    client = SimpleNamespace(TritonChain=lambda *arguments: SimpleNamespace(arguments=arguments, route=None))
    monkeypatch.setitem(sys.modules, "icgan_runtime.client.triton", client)
    options: dict[str, Any] = {"timeout_s": 0.5, "retries": 7, "shared_memory": "system"}
    defaults = vars(Pipeline.connect("grpc://host:1").chain)["arguments"]
    chosen = vars(Pipeline.connect("http://host:2", **options).chain)["arguments"]
    assert defaults == ("grpc://host:1", ConnectionOptions(timeout_s=30, retries=3, shared_memory=None))
    assert chosen == ("http://host:2", ConnectionOptions(**options))


def test_the_model_is_described(pipe):
    assert (pipe.model.name, pipe.model.resolution, pipe.model.classes) == ("tiny", 8, 0)
    assert json.dumps(dataclasses.asdict(pipe.model))


@pytest.mark.parametrize("method", ["generate", "generate_from", "stream", "search"])
def test_after_the_picture_everything_has_a_name(pipe, method):
    with pytest.raises(TypeError, match="positional"):
        getattr(pipe, method)(pipe.embed(PHOTO) if method == "generate_from" else PHOTO, 2)


def test_a_search_takes_pictures_as_well_as_embeddings(pipe):
    ids, scores = pipe.search(pipe.embed(PHOTO), k=3)
    array = np.zeros((9, 9, 3), np.uint8)
    for query in (PHOTO, str(PHOTO), PHOTO.read_bytes(), [PHOTO], (PHOTO, array)):
        found = pipe.search(query, k=3)
        np.testing.assert_array_equal(found[0][:1], ids)
        np.testing.assert_array_equal(found[1][:1], scores)
    np.testing.assert_array_equal(pipe.search(array)[0], pipe.search(pipe.embed(array))[0])


@pytest.mark.parametrize(
    ("picture", "words"), [(3, "picture: an int, expected"), ({}, "picture: a dict, expected")]
)
def test_a_picture_of_no_accepted_type_is_refused_in_the_users_words(pipe, picture, words):
    with pytest.raises(RequestError) as caught:
        pipe.generate(picture)
    assert str(caught.value) == f"{words} a path, bytes, PIL image or uint8 array"


def test_what_applications_hold_says_briefly_what_it_is(pipe):
    assert repr(pipe) == "Pipeline(tiny, 8 × 8, ort-cpu fp32, search faiss)"
    assert repr(pipe.bank) == "Bank(20 instances × 12, labels, thumbnails, names)"
    bare = dataclasses.replace(pipe.bank, labels=None, thumbnails=None, names=None)
    assert repr(bare) == "Bank(20 instances × 12)"
    result = pipe.generate(PHOTO, n=3, seed=4)
    near = f"nearest {instance_name(result.neighbours.ids[0])} ({result.neighbours.scores[0]:.3f})"
    assert repr(result) == f"Result(3 images of 8 × 8, seed 4, {near})"
    assert repr(result.neighbours) == f"Neighbours(5, {near})"


def test_neighbours_carry_files_classes_and_whether_the_picture_is_outside(pipe, labelled):
    near = pipe.nearest(PHOTO, k=3)[0]
    assert near.names == tuple(instance_name(number) for number in near.ids)
    assert pipe.generate(PHOTO).neighbours.names[:3] == near.names
    assert near.classes is None, "a bundle that says nothing of classes"
    found = labelled.nearest([PHOTO, PHOTO], k=2)[1]
    assert found.classes == tuple(f"class {label}" for label in found.labels)
    assert (found.names, found.title(0)) == (None, f"{found.classes[0]} no. {found.ids[0]}")


def test_a_picture_unlike_all_that_is_stored_is_said_to_be_outside(pipe):
    axis = np.eye(12, dtype=np.float32)
    close = pipe.bank.embeddings.copy()
    close[:] = axis[0] + 0.1 * close
    close /= np.linalg.norm(close, axis=1, keepdims=True)
    with pipe.with_bank(dataclasses.replace(pipe.bank, embeddings=close)) as narrow:
        assert narrow.generate_from(axis[3]).outside
        assert "outside what is stored" in repr(narrow.generate_from(axis[3]))
        assert not narrow.generate_from(close[4]).outside
    stated = dataclasses.replace(pipe.bank, stated_limit=-1.0)  # what a bundle says is believed
    with pipe.with_bank(stated) as wide:
        assert wide.nearest(axis[3])[0].outside_below == -1


# ---- route -----------------------------------------------------------------------------------------------


def test_the_route_says_what_runs_and_why(pipe, tiny_bundle):
    route = pipe.route
    parts = (route.backend, route.provider, route.precision, route.search, route.threads)
    assert parts == ("ort-cpu", "CPUExecutionProvider", "fp32", "faiss", 1)
    assert route.reasons == {
        "backend": "ONNX Runtime has no CUDA provider here",
        "provider": "opened by encoder and generator",
        "precision": "the highest in the bundle",
        "search": "installed",
        "threads": "asked for",
    }
    with Pipeline.load(tiny_bundle, backend="ort-cpu", precision="fp32", search="numpy") as asked:
        wanted = ("backend", "precision", "search")
        assert {asked.route.reasons[name] for name in wanted} == {"asked for"}
        assert asked.route.reasons["threads"] in ("one per core", "the CPUs of this process")
    with pytest.raises(dataclasses.FrozenInstanceError):
        route.backend = "other"


def test_another_bank_keeps_the_route(pipe):
    assert pipe.with_bank(pipe.bank).route.search == "faiss"


def test_a_gpu_that_cannot_be_used_after_all_is_not_claimed(tiny_bundle, monkeypatch, caplog):
    """ONNX Runtime offers CUDA, falls back without a word, and the route says what really computes."""
    start = onnxruntime.InferenceSession
    monkeypatch.setattr(
        "onnxruntime.InferenceSession", lambda model, options, providers: start(model, options)
    )
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr("icgan_runtime.backends.ort.available_backends", lambda: ["ort-cuda", "ort-cpu"])
    with Pipeline.load(tiny_bundle) as pipe:
        route = pipe.route
    assert (route.backend, route.provider) == ("ort-cpu", "CPUExecutionProvider")
    assert route.reasons["backend"].startswith(
        "ort-cuda was chosen, for ONNX Runtime has its CUDA provider, "
    )
    warning = "ort-cuda could not be loaded: running on ort-cpu, CPUExecutionProvider"
    assert [record.message for record in caplog.records if record.name == "icgan"] == [warning]


def test_an_embedding_program_can_listen_to_the_route(tiny_bundle, caplog):
    caplog.set_level("INFO", "icgan")
    with Pipeline.load(tiny_bundle) as pipe:
        route = pipe.route
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("icgan", "INFO")
    assert record.message == f"{tiny_bundle}: {route}"
