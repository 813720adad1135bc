"""Faults planted in a bundle, hashes made to agree: verification must find each."""

import json
import re
import sys
import zipfile

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from icgan_runtime.bundle.manifest import MANIFEST_NAME, SAMPLES_NAME, describe_file
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.verify import psnr, to_bytes, verify_bundle


@pytest.fixture
def bundle(tiny_bundle, copy_bundle):
    """A bundle of its own, free to be damaged."""
    return copy_bundle(tiny_bundle)


def accept_new_hash(bundle, name) -> None:
    """Make the manifest agree with a file that was changed."""
    value = json.loads((bundle / MANIFEST_NAME).read_text())
    value["files"][name] = to_json(describe_file(bundle / name))
    (bundle / MANIFEST_NAME).write_text(json.dumps(value))


def test_a_sound_bundle_passes_every_check(labelled_bundle):
    assert all(check.passed for check in verify_bundle(Bundle.open(labelled_bundle)))


def sabotage(bundle, role, change) -> dict[str, str]:
    """Change a graph's weights and its hash; returns the checks that then fail."""
    name = f"{role}.onnx"
    proto = onnx.load(bundle / name)
    for tensor in proto.graph.initializer:
        value = change(tensor.name, numpy_helper.to_array(tensor))
        if value is not None:
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(proto, bundle / name)
    accept_new_hash(bundle, name)
    return {check.name: check.detail for check in verify_bundle(Bundle.open(bundle)) if not check.passed}


def test_verification_finds_a_wrong_normalisation(bundle):
    failed = sabotage(bundle, "encoder", lambda name, value: np.float32(90.0) if name == "grey" else None)
    assert list(failed) == ["encoder.onnx on samples"]
    assert "cosine" in failed["encoder.onnx on samples"]


def test_verification_finds_nan_in_an_encoder(bundle):
    failed = sabotage(
        bundle, "encoder", lambda name, value: value * np.float32("nan") if name == "weight" else None
    )
    assert "embedding holds NaN or infinity" in failed["encoder.onnx on samples"]


def test_verification_finds_an_overflow_in_a_generator(bundle):
    failed = sabotage(
        bundle, "generator", lambda name, value: value * np.float32("inf") if name == "from_noise" else None
    )
    assert "grey levels apart" in failed["generator.onnx on samples"]


def test_verification_finds_another_bank_in_the_lookup_graph(bundle):
    failed = sabotage(bundle, "lookup", lambda name, value: value[:, ::-1].copy() if name == "bank" else None)
    assert list(failed) == ["lookup.onnx on samples"]


def test_verification_finds_another_bank_of_the_same_encoder(bundle):
    rows = np.load(bundle / "bank/embeddings.npy")
    np.save(bundle / "bank/embeddings.npy", rows[::-1].copy())
    accept_new_hash(bundle, "bank/embeddings.npy")
    failed = {check.name for check in verify_bundle(Bundle.open(bundle)) if not check.passed}
    assert failed == {"bank on samples"}


def test_verification_finds_shifted_labels(labelled_bundle, copy_bundle):
    bundle = copy_bundle(labelled_bundle)
    failed = sabotage(
        bundle, "generator", lambda name, value: np.roll(value, 1, axis=0) if name == "table" else None
    )
    assert list(failed) == ["generator.onnx on samples"]


@pytest.mark.parametrize(
    "content",
    [b"", b"not a zip", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(100)],
    ids=["empty", "text", "a zip without members", "a zip cut short"],
)
def test_verification_refuses_samples_that_are_none(bundle, content):
    (bundle / SAMPLES_NAME).write_bytes(content)
    accept_new_hash(bundle, SAMPLES_NAME)
    failed = {check.name: check.detail for check in verify_bundle(Bundle.open(bundle)) if not check.passed}
    assert "samples.npz" in failed[SAMPLES_NAME]


def test_verification_refuses_samples_of_another_shape(bundle):
    with np.load(bundle / SAMPLES_NAME) as archive:
        samples = dict(archive)
    np.savez(bundle / SAMPLES_NAME, allow_pickle=False, **{**samples, "noise": samples["noise"][:, :3]})
    accept_new_hash(bundle, SAMPLES_NAME)
    failed = {check.name: check.detail for check in verify_bundle(Bundle.open(bundle)) if not check.passed}
    assert r"samples.npz noise: holds float32[2, 3], the manifest says float32[*, 6]" in failed[SAMPLES_NAME]


def test_verification_refuses_samples_of_different_lengths(bundle):
    with np.load(bundle / SAMPLES_NAME) as archive:
        samples = dict(archive)
    np.savez(bundle / SAMPLES_NAME, allow_pickle=False, **{**samples, "noise": samples["noise"][:1]})
    accept_new_hash(bundle, SAMPLES_NAME)
    failed = {check.name: check.detail for check in verify_bundle(Bundle.open(bundle)) if not check.passed}
    assert "arrays of different lengths: {'image': 2, 'noise': 1}" in failed[SAMPLES_NAME]


def test_an_archive_of_samples_with_more_members_than_samples_have_is_refused(bundle):
    with zipfile.ZipFile(bundle / SAMPLES_NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(65):
            archive.writestr(f"{index}.npy", b"")
    accept_new_hash(bundle, SAMPLES_NAME)
    failed = {check.name: check.detail for check in verify_bundle(Bundle.open(bundle)) if not check.passed}
    assert "65 members" in failed[SAMPLES_NAME]


def checks_with(bundle, precision="fp32", **changes) -> dict[str, tuple[bool, str]]:
    """Verdict and detail of each check after arrays of the samples were changed."""
    with np.load(bundle / SAMPLES_NAME) as archive:
        samples = dict(archive)
    for name, change in changes.items():
        samples[name] = change(samples[name])
    np.savez(bundle / SAMPLES_NAME, allow_pickle=False, **samples)
    accept_new_hash(bundle, SAMPLES_NAME)
    value = json.loads((bundle / MANIFEST_NAME).read_text())
    for graph in value["graphs"]:
        graph["precision"] = precision
    (bundle / MANIFEST_NAME).write_text(json.dumps(value))
    return {check.name: (check.passed, check.detail) for check in verify_bundle(Bundle.open(bundle))}


def turned(cosine):
    """A change of unit rows that leaves them at this cosine to what they were."""

    def turn(rows):
        away = np.roll(rows, 1, axis=1).astype(np.float64)
        away -= (away * rows).sum(axis=1, keepdims=True) * rows
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        return (cosine * rows + np.sqrt(1 - cosine**2) * away).astype(np.float32)

    return turn


@pytest.mark.parametrize(
    ("precision", "cosine", "allowed", "least"),
    [
        ("fp32", 0.9999996, True, "0.999999"),
        ("fp32", 0.99999, False, "0.999999"),
        ("fp16", 0.9996, True, "0.9995"),
        ("fp16", 0.9994, False, "0.9995"),
        ("int8", 0.991, True, "0.99"),
        ("int8", 0.989, False, "0.99"),
    ],
)
def test_an_encoder_may_turn_embeddings_as_far_as_its_precision_allows(
    bundle, precision, cosine, allowed, least
):
    passed, said = checks_with(bundle, precision, embedding=turned(cosine))["encoder.onnx on samples"]
    assert passed is allowed
    assert re.fullmatch(rf"cosine 0\.9\d+, at least {least} wanted", said)


@pytest.mark.parametrize(("levels", "allowed"), [(0, True), (1, True), (2, False)])
def test_a_full_precision_generator_may_be_one_grey_level_off(bundle, levels, allowed):
    drawn = checks_with(bundle, image=lambda image: image + levels / np.float32(127.5))
    said = f"{levels} grey levels apart" + (" at most" if allowed else ", expected at most 1")
    assert drawn["generator.onnx on samples"] == (allowed, said)


@pytest.mark.parametrize(
    ("precision", "levels", "allowed", "detail"),
    [
        ("fp16", 2, True, "PSNR 42"),
        ("fp16", 3, False, "PSNR 38"),
        ("int8", 14, True, "PSNR 25"),
        ("int8", 15, False, "PSNR 24"),
    ],
)
def test_a_smaller_generator_is_judged_by_its_noise(bundle, precision, levels, allowed, detail):
    changed = checks_with(bundle, precision, image=lambda image: image + levels / np.float32(127.5))
    passed, said = changed["generator.onnx on samples"]
    assert passed is allowed
    assert said.startswith(detail)
    assert said.endswith(f"at least {'40' if precision == 'fp16' else '25'} wanted")


def test_scores_may_differ_by_rounding_only(bundle):
    both = ("lookup.onnx on samples", "bank on samples")
    for error, allowed in ((5e-5, True), (1e-4, False)):  # one on top of the other
        found = checks_with(bundle, scores=lambda scores, error=error: scores + np.float32(error))
        for name in both:
            passed, detail = found[name]
            assert passed is allowed
            wanted = r"ids agree, scores within 5e-05"
            missed = r"scores 0\.00015 apart, expected at most 0\.0001: another bank\?"
            assert re.fullmatch(wanted if allowed else missed, detail)


def test_another_order_of_neighbours_is_named(bundle):
    def swapped(ids):
        return np.concatenate([ids[:1, [0, 2, 1, 3, 4]], ids[1:]])

    with np.load(bundle / SAMPLES_NAME) as archive:
        ids = archive["ids"]
    found = checks_with(bundle, ids=swapped)
    message = f"row 0: neighbour {ids[0, 1]}, expected {ids[0, 2]}"
    assert found["bank on samples"] == found["lookup.onnx on samples"] == (False, message)


def test_one_pinned_image_is_enough(bundle):
    checks = checks_with(bundle, image=lambda image: image[:1], noise=lambda noise: noise[:1])
    assert all(passed for passed, _ in checks.values())


def test_a_graph_of_another_opset_than_the_manifest_says_is_named(bundle):
    value = json.loads((bundle / MANIFEST_NAME).read_text())
    value["graphs"][0]["opset"] = 19
    (bundle / MANIFEST_NAME).write_text(json.dumps(value))
    failed = {check.name: check.detail for check in verify_bundle(Bundle.open(bundle)) if not check.passed}
    assert failed == {"encoder.onnx metadata": "opset 18, the manifest says 19"}


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4], [0, 1, 2, 4, 3], [0, 1, 2, 3, 5]], ids=str)
def test_neighbours_of_equal_scores_may_come_in_any_order(bundle, order):
    rows = np.load(bundle / "bank/embeddings.npy")
    rows[10:16] = np.roll(np.eye(12, dtype=np.float32), 3, axis=0)[3]  # six times the same instance
    np.save(bundle / "bank/embeddings.npy", rows)
    accept_new_hash(bundle, "bank/embeddings.npy")
    query = np.tile(rows[10], (3, 1))
    equal = np.tile(np.arange(10, 16)[order], (3, 1))
    found = checks_with(
        bundle, embedding=lambda _: query, ids=lambda _: equal, scores=lambda old: np.ones_like(old)
    )
    assert found["bank on samples"] == (True, "ids agree, scores within 0")


def test_the_byte_rule_rounds_and_clamps():
    levels = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32)
    images = np.tile(levels, (1, 3, 5, 1))
    assert to_bytes(images)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_psnr_is_infinite_for_equal_pictures_and_falls_with_the_error():
    a = np.zeros((1, 2, 2, 3), np.uint8)
    assert psnr(a, a) == float("inf")
    assert psnr(a, a + 1) == pytest.approx(48.13, abs=0.01)
    assert psnr(a, a + 255) == 0


def test_graphs_that_cannot_be_run_here_say_what_to_install(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "icgan_runtime.backends.ort", None)
    failed = [check for check in verify_bundle(Bundle.open(tiny_bundle)) if not check.passed]
    assert {check.detail for check in failed} == {"onnxruntime is not installed: pip install 'icgan[cpu]'"}
    assert len(failed) == 3
