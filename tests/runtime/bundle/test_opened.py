"""A damaged or malicious bundle is refused with the file's name before any of it is used."""

import errno
import json
import os

import pytest

from icgan_runtime import Pipeline
from icgan_runtime.bundle.manifest import MANIFEST_NAME, SAMPLES_NAME, describe_file
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import BindingError, BundleError, IntegrityError
from icgan_runtime.verify import verify_bundle

USED = (
    "encoder.onnx",
    "generator.onnx",
    "bank/bank.json",
    "bank/embeddings.npy",
    "bank/ids.npy",
    "bank/labels.npy",
)
LISTED = (*USED, "bank/thumbnails.npy", "lookup.onnx", SAMPLES_NAME, "README.md")


@pytest.fixture
def bundle(tiny_bundle, copy_bundle):
    """A bundle of its own, free to be damaged."""
    return copy_bundle(tiny_bundle)


def rewrite(bundle, change) -> None:
    """Apply `change` to the manifest's JSON, as an attacker would, without validation."""
    path = bundle / MANIFEST_NAME
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def accept_new_hash(bundle, name) -> None:
    """Make the manifest agree with a file that was changed: only bindings can catch it now."""
    entry = describe_file(bundle / name)
    rewrite(
        bundle, lambda value: value["files"].update({name: {"bytes": entry.bytes, "sha256": entry.sha256}})
    )


def test_a_file_that_the_disk_does_not_give_is_named(bundle, monkeypatch):
    def refuse(path: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("icgan_runtime.files.sha256_of_file", refuse)
    first = next(verify_bundle(Bundle.open(bundle)))
    assert not first.passed
    assert first.detail.endswith(": cannot be read (Permission denied)")


def refusal(bundle, name):
    """Loading refuses the bundle naming `name`; for files that loading leaves alone, verification does."""
    if name in USED or name == MANIFEST_NAME or name == "bank/thumbnails.npy":
        with pytest.raises(BundleError) as caught:
            Pipeline.load(bundle)
        return caught.value
    failed = {check.name: check.detail for check in verify_bundle(Bundle.open(bundle)) if not check.passed}
    assert name in failed
    return failed[name]


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("offset", ["first", "middle", "last"])
def test_a_flipped_byte_is_found(bundle, name, offset):
    data = bytearray((bundle / name).read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[offset]] ^= 1
    (bundle / name).write_bytes(data)
    assert f"{name}: SHA-256" in str(refusal(bundle, name))


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("left", [0, 0.5])
def test_a_truncated_file_is_found(bundle, name, left):
    size = (bundle / name).stat().st_size
    os.truncate(bundle / name, int(size * left))
    assert f"{name}: has {int(size * left)} bytes, the manifest says {size}" in str(refusal(bundle, name))


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_file_is_found(bundle, name):
    (bundle / name).unlink()
    assert f"{name}: missing from the bundle" in str(refusal(bundle, name))


@pytest.mark.parametrize("name", sorted({*LISTED} - {"README.md", "bank/ids.npy", "bank/labels.npy"}))
def test_a_file_of_another_bundle_is_found(bundle, foreign_bundle, name):
    (bundle / name).write_bytes((foreign_bundle / name).read_bytes())
    assert name in str(refusal(bundle, name))


@pytest.mark.parametrize("name", [*LISTED, MANIFEST_NAME])
def test_a_link_out_of_the_bundle_is_refused(bundle, tmp_path, name):
    outside = tmp_path / "outside"
    (bundle / name).rename(outside)  # the very same bytes, but elsewhere
    (bundle / name).symlink_to(outside)
    assert f"{name}: a link that leaves the bundle" in str(refusal(bundle, name))


def test_a_folder_linked_from_outside_is_refused(bundle, tmp_path):
    (bundle / "bank").rename(tmp_path / "bank")
    (bundle / "bank").symlink_to(tmp_path / "bank", target_is_directory=True)
    assert "bank/bank.json: a link that leaves the bundle" in str(refusal(bundle, "bank/bank.json"))


def test_a_link_inside_the_bundle_is_followed(bundle):
    (bundle / "encoder.onnx").rename(bundle / "real.onnx")
    (bundle / "encoder.onnx").symlink_to("real.onnx")
    Pipeline.load(bundle).close()


def test_a_loop_of_links_and_a_pipe_are_refused(bundle):
    (bundle / "encoder.onnx").unlink()
    (bundle / "encoder.onnx").symlink_to("encoder.onnx")
    assert "encoder.onnx: missing" in str(refusal(bundle, "encoder.onnx"))
    (bundle / "encoder.onnx").unlink()
    os.mkfifo(bundle / "encoder.onnx")
    assert "encoder.onnx: not a regular file" in str(refusal(bundle, "encoder.onnx"))


def test_a_file_that_is_not_listed_is_never_opened(bundle):
    rewrite(bundle, lambda value: value["files"].pop("bank/ids.npy"))
    assert "bank/ids.npy: not listed in the manifest" in str(refusal(bundle, "bank/ids.npy"))
    assert "bank/ids.npy" in Bundle.open(bundle).unlisted_files()


@pytest.mark.parametrize("percent", range(100))
def test_a_flipped_byte_in_the_manifest_is_refused_or_changes_a_report_only(tiny_bundle, bundle, percent):
    data = bytearray((bundle / MANIFEST_NAME).read_bytes())
    data[len(data) * percent // 100] ^= 0x01
    (bundle / MANIFEST_NAME).write_bytes(data)
    try:
        Pipeline.load(bundle).close()
        loaded = Bundle.open(bundle).manifest
    except BundleError:
        return
    # JSON has bytes that mean nothing (white space) or serve people only (the source of the bank).
    original = Bundle.open(tiny_bundle).manifest
    assert loaded.model.encoder_id == original.model.encoder_id
    assert loaded.graphs == original.graphs


def test_verifying_all_files_names_the_first_that_differs(bundle):
    Bundle.open(bundle).verify_files()
    (bundle / "README.md").write_bytes(b"# tinY\n")
    with pytest.raises(IntegrityError, match=r"README\.md: SHA-256"):
        Bundle.open(bundle).verify_files()


def swap(bundle, foreign, name):
    (bundle / name).write_bytes((foreign / name).read_bytes())
    accept_new_hash(bundle, name)


@pytest.mark.parametrize("name", ["encoder.onnx", "generator.onnx"])
def test_a_graph_swapped_together_with_its_hash_is_refused_by_its_metadata(bundle, foreign_bundle, name):
    swap(bundle, foreign_bundle, name)
    with pytest.raises(BindingError, match=rf"{name}: made for tiny"):
        Pipeline.load(bundle)


def test_a_generator_in_place_of_the_encoder_is_refused(bundle):
    (bundle / "encoder.onnx").write_bytes((bundle / "generator.onnx").read_bytes())
    accept_new_hash(bundle, "encoder.onnx")
    with pytest.raises(BindingError, match=r"encoder\.onnx: its metadata calls it the generator graph"):
        Pipeline.load(bundle)


def test_a_bank_swapped_together_with_its_hashes_is_refused_by_its_encoder(bundle, foreign_bundle):
    for name in LISTED:
        if name.startswith("bank/"):
            swap(bundle, foreign_bundle, name)
    with pytest.raises(BindingError, match=r"bank/bank\.json: differs from the manifest in encoder_id"):
        Pipeline.load(bundle)


def test_a_manifest_that_promises_an_absurd_size_is_refused_without_allocating(bundle):
    rewrite(bundle, lambda value: value["files"]["encoder.onnx"].update(bytes=15 << 30))
    assert "the manifest says 16106127360" in str(refusal(bundle, "encoder.onnx"))


def test_integrity_is_a_bundle_error_with_the_file(bundle):
    (bundle / "encoder.onnx").write_bytes(b"")
    with pytest.raises(IntegrityError) as caught:
        Pipeline.load(bundle)
    assert caught.value.file == "encoder.onnx"
