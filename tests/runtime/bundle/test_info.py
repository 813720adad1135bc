import dataclasses
import json

import pytest

from icgan_runtime.bundle.info import describe, render
from icgan_runtime.bundle.manifest import EngineEntry, KeptNode, Licence, Manifest
from icgan_runtime.bundle.onnx_file import describe_onnx
from icgan_runtime.bundle.opened import Bundle

TEXT = """\
tiny 1: 8 × 8 images, 3 classes
  size       {size} bytes
  licence    CC0-1.0  Drawn from random numbers.
  noise      6 wide; truncation bounds the noise
  encoder    tiny, 12 wide, weights {weights}
  input      8 × 8 RGB, centre-short-side, pillow-bilinear
  bank       20 instances: random numbers (CC0-1.0), k = 5, labelled
  prior      3 means of 3 or more of 22 pictures, 2 axes: draws instances where no picture is given
  identity   {identity}, embedding space {space}
  encoder.onnx: encoder fp32, {encoder} bytes, 0.00 M parameters, opset 18
    Cast 1, LpNormalization 1, MatMul 1, ReduceMean 1, Reshape 2, Sub 1
  lookup.onnx: lookup fp32, {lookup} bytes, 0.00 M parameters, opset 18
    MatMul 1, TopK 1
  generator.onnx: generator fp32, {generator} bytes, 0.00 M parameters, opset 18
    Add 3, Cast 1, Clip 1, Gather 1, MatMul 2, Mul 1, Reshape 1, Round 1, Tanh 1
    one picture: 12.3 M multiply-adds, activations of 4.5 MB
    kept in FP32: /a (too large); /b (too small)
  README.md: generator fp16, sm90, TensorRT 10.14.1, batch up to 32
  metrics
    fid  none
  bench
    speed  fast
  provenance
    data  random numbers
    command
      name  make_bundle
      seed  0
  not in the manifest, never used: bank/notes.txt, extra.txt"""


@pytest.fixture
def bundle(labelled_bundle, copy_bundle) -> Bundle:
    """A bundle that has something to say on every line."""
    root = copy_bundle(labelled_bundle)
    manifest = Manifest.read(root)
    encoder, lookup, generator = manifest.graphs
    kept = (KeptNode("/a", "too large"), KeptNode("/b", "too small"))
    model = dataclasses.replace(
        manifest.model, licence=Licence("CC0-1.0", "Drawn from random numbers."), class_names=None
    )
    changed = dataclasses.replace(
        manifest,
        model=model,
        graphs=(encoder, lookup, dataclasses.replace(generator, kept_fp32=kept)),
        engines=(EngineEntry("generator", "fp16", "README.md", "sm90", "10.14.1", 32, model.encoder_id),),
        provenance={"data": "random numbers", "command": {"name": "make_bundle", "seed": 0}},
        bench={
            "speed": "fast",
            "costs": {
                "generator.onnx": {"multiply_adds": 12_300_000, "peak_activation_bytes": 4_500_000},
                "encoder.onnx": "unknown",
            },
        },
    )
    changed.write(root)
    (root / "extra.txt").write_text("mine")
    (root / "bank" / "notes.txt").write_text("mine")
    return Bundle.open(root)


def test_info_reads_like_this(bundle):
    model = bundle.manifest.model
    sizes = {name.removesuffix(".onnx"): entry.bytes for name, entry in bundle.manifest.files.items()}
    assert render(describe(bundle)) == TEXT.format(
        size=sum(sizes.values()),
        weights=model.encoder.sha256[:12],
        identity=model.identity[:16],
        space=model.encoder_id[:16],
        **{role: sizes[role] for role in ("encoder", "lookup", "generator")},
    )


def test_info_of_a_plain_bundle_says_nothing_about_what_it_lacks(tiny_bundle):
    lines = render(describe(Bundle.open(tiny_bundle))).splitlines()
    assert lines[0] == "tiny 1: 8 × 8 images"
    assert lines[2] == "  licence    CC0-1.0"
    assert lines[-2:] == ["  metrics", "    fid  none"]
    said = "\n".join(lines)
    for absent in ("one picture", "kept in", "TensorRT", "provenance", "parity", "bench", "never used"):
        assert absent not in said


@pytest.mark.parametrize("costs", [None, 7, [], {"generator.onnx": {"multiply_adds": "many"}}])
def test_a_report_of_another_program_about_costs_is_no_reason_to_fail(bundle, costs):
    facts = describe(bundle)
    facts["bench"]["costs"] = costs
    assert "one picture" not in render(facts)


def test_a_bank_without_labels_is_not_called_labelled(bundle):
    facts = describe(bundle)
    facts["bank"]["labelled"] = False
    assert "(CC0-1.0), k = 5\n" in render(facts)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (99_999, "99999 bytes"), (100_000, "0.1 MB"), (12_345_678, "12.3 MB")]
)
def test_large_sizes_are_told_in_megabytes(bundle, size, text):
    assert f"  size       {text}\n" in render({**describe(bundle), "bytes": size})


def test_facts_for_scripts_hold_the_manifest_and_what_the_graphs_say_themselves(bundle):
    facts, book = describe(bundle), json.loads(bundle.manifest.to_bytes())
    for graph, entry in zip(facts["graphs"], book["graphs"], strict=True):
        found = describe_onnx((bundle.root / entry["file"]).read_bytes(), entry["file"])
        own = {"bytes": found.bytes, "parameters": found.parameters}
        assert graph == entry | own | {"opsets": found.opsets, "operators": found.operators}
    assert facts["encoder_id"] == bundle.manifest.model.encoder_id
    assert facts["identity"] == bundle.manifest.model.identity
    assert facts["bytes"] == sum(entry["bytes"] for entry in book["files"].values())
    assert facts["unlisted_files"] == ["bank/notes.txt", "extra.txt"]
    for section in ("model", "bank", "files", "engines", "provenance", "metrics", "parity", "bench"):
        assert facts[section] == book[section]


def test_reports_are_read_as_words_not_as_json_or_python(labelled_bundle):
    facts = describe(Bundle.open(labelled_bundle))
    facts["provenance"] = {"train": {"diffaugment": ["translation", "cutout"], "long_tail": False}}
    facts["metrics"] = {
        "scores": {"fid": 35.20729064941406, "kid": 0.0158003, "kid_deviation": 0.00102479, "recall": 0.364},
        "parameters": {"samples": 5000, "reference": "groceries, 1324 pictures", "truncation": None},
        "notes": ["FID falls as samples are added"],
    }
    row = {"stage": "encoder", "precision": "fp32", "what": "max error", "bound": 1e-4, "at_least": False}
    facts["parity"] = {
        "passed": True,
        "seconds": 2.5,
        "largest_activations": {},
        "checks": [{**row, "value": 1.371e-06, "passed": True}, {**row, "value": 0.5, "passed": False}],
    }
    text = render(facts)
    assert "largest activations" not in text  # of nothing
    for line in (
        "      diffaugment  translation, cutout",
        "      long tail  no",
        "    FID     35.21",
        "    KID     0.0158 ± 0.001025",
        "    of 5,000 generated pictures, against groceries, 1324 pictures",
        "    FID falls as samples are added",
        "    encoder    fp32  max error: 1.371e-06, at most 0.0001",
        "    encoder    fp32  max error: 0.5, at most 0.0001  MISSED",
    ):
        assert f"\n{line}\n" in f"{text}\n"
    assert not {"[", "]", "{", "}", "None", "True", "False", "'", '"'} & set(text.split("  metrics")[1])


@pytest.mark.parametrize(
    "odd", [{"checks": "all"}, {"checks": [3, None]}, {"scores": [1]}, {"scores": {}}, {"notes": 4}]
)
def test_a_report_of_another_program_is_shown_whatever_it_holds(odd, labelled_bundle):
    facts = describe(Bundle.open(labelled_bundle))
    for title in ("provenance", "metrics", "parity", "bench"):
        assert render({**facts, title: odd})
