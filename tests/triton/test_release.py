"""Another bank, or all that belongs together, under a running server: nobody fails, nobody gets a mixture."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icgan_runtime import Pipeline
from icgan_runtime.server.repository import add_release, set_release
from tests.models.make_models import make_bundle
from tests.runtime.server.test_repository import other_bank
from tests.triton.conftest import quiet
from tests.triton.test_icgan import PHOTO
from tests.triton.wire import RefusedError, Wire, rows


def everything_else(bundle: Path, tmp_path: Path) -> Path:
    """Another encoder, bank and generator of the same dimensions."""
    return make_bundle(tmp_path / "everything", seed=5)


@pytest.mark.parametrize("other", [other_bank, everything_else])
def test_releases_come_and_go_without_a_failed_or_mixed_request(start, tiny_bundle, tmp_path, other):
    pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
    server = start(tiny_bundle)
    swapped = other(tiny_bundle, tmp_path)
    expected = []
    third = make_bundle(tmp_path / "third", seed=7)
    for bundle in (tiny_bundle, swapped, third):
        with Pipeline.load(bundle) as pipe:
            expected.append(pipe.generate(PHOTO, seed=2, condition="nearest"))
    assert not np.array_equal(expected[0].neighbours.scores, expected[1].neighbours.scores)
    stop = threading.Event()
    seen: list[list[int]] = [[], [], []]  # per client: which release each of its answers came from
    errors: list[BaseException] = []

    def ask(client: int) -> None:
        try:
            with Pipeline.connect(server.grpc_url, retries=0) as pipe:
                while not stop.is_set():
                    result = pipe.generate(PHOTO, seed=2, condition="nearest")
                    from_bank = [
                        np.allclose(result.neighbours.scores, each.neighbours.scores, atol=1e-6)
                        for each in expected
                    ]
                    bank = from_bank.index(True)
                    np.testing.assert_array_equal(result.neighbours.ids, expected[bank].neighbours.ids)
                    np.testing.assert_allclose(result.embedding, expected[bank].embedding, atol=1e-6)
                    difference = result.images.astype(int) - expected[bank].images
                    assert np.abs(difference).max() <= 1, "neighbours of one release, picture of another"
                    seen[client].append(bank)
                    stop.wait(0.02)
        except BaseException as error:
            errors.append(error)

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(len(seen))]
    for client in clients:
        client.start()

    def after(change) -> list[int]:
        """Load what `change` says, then wait for two more answers of each client; the last of each."""
        for model in change:
            server.load(model)
        counts = [len(banks) for banks in seen]
        while not errors and any(len(banks) < count + 2 for banks, count in zip(seen, counts, strict=True)):
            stop.wait(0.01)
        return [banks[-1] for banks in seen]

    try:
        assert after([]) == [0, 0, 0]
        assert after(add_release(swapped, server.repository, quiet)) == [1, 1, 1]
        assert after(set_release(server.repository, 1)) == [0, 0, 0]
        assert after(add_release(third, server.repository, quiet)) == [2, 2, 2]
        assert after(set_release(server.repository, 2)) == [1, 1, 1]
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert errors == []
    assert all(np.count_nonzero(np.diff(banks)) == 4 for banks in seen), (
        "each change is seen once, and not undone"
    )


def test_stages_that_a_release_does_not_change_go_on(start, tiny_bundle, tmp_path):
    server = start(tiny_bundle)
    with Wire(server, "grpc") as wire:
        wire.ask("icgan", {"IMAGE": [PHOTO], **rows(1)})
        before = server.stages()
        change = add_release(other_bank(tiny_bundle, tmp_path), server.repository, quiet)
        for model in change:
            server.load(model)
        wire.ask("icgan", {"IMAGE": [PHOTO], **rows(1)})
    for name in ("icgan_preprocess", "icgan_encoder", "icgan_generator"):
        assert name not in change
        now = {process for process, model in server.stages().items() if model == name}
        assert now == {process for process, model in before.items() if model == name}, "loaded again"


KEEPING = ("icgan_encoder", "icgan_generator")


def test_kept_answers_spare_the_networks_and_do_not_outlive_a_swap(start, tiny_bundle, tmp_path):
    server = start(tiny_bundle, cache_mb=8)
    with Wire(server, "grpc") as wire:

        def ask(outputs=None) -> dict[str, np.ndarray]:
            inputs = {"IMAGE": [PHOTO] * 2, **rows(2), "FORMAT": [b"image/png"] * 2}
            return wire.ask("icgan_file", inputs, outputs)

        def as_of(bundle: Path) -> None:
            """Both times the answer is right, and the second time it is a kept one."""
            with Pipeline.load(bundle) as pipe:
                expected = pipe.generate(PHOTO, n=2, truncation=0.7, condition="query")
            computed = None
            for _ in range(2):
                answer = ask()
                for file, image in zip(answer["PICTURE"][:, 0], expected.images, strict=True):
                    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), image)
                np.testing.assert_array_equal(answer["NEIGHBOUR_SCORES"][0], expected.neighbours.scores)
                assert computed in (None, executions(server)), "the second answer is kept"
                computed = executions(server)

        assert set(ask(["NEIGHBOUR_IDS"])) == {"NEIGHBOUR_IDS"}, "a part of the outputs comes first"
        as_of(tiny_bundle)
        for other in (other_bank, everything_else):
            bundle = other(tiny_bundle, tmp_path)
            for model in add_release(bundle, server.repository, quiet):
                server.load(model)
            as_of(bundle)
        for model in set_release(server.repository, 1):
            server.load(model)
        as_of(tiny_bundle)


def test_another_seed_bank_or_part_of_the_outputs_is_another_answer(start, tiny_bundle):
    server = start(tiny_bundle, cache_mb=8)
    with Wire(server, "grpc") as wire, Pipeline.load(tiny_bundle) as pipe:
        for _ in range(2):
            for seed, condition in ((0, 0), (1, 0), (0, 1)):
                inputs = {"IMAGE": [PHOTO], **rows(1, SEED=[seed], CONDITION=[condition])}
                answer = wire.ask("icgan", inputs)
                names = ("query", "nearest")
                expected = pipe.generate(PHOTO, seed=seed, truncation=0.7, condition=names[condition])
                np.testing.assert_array_equal(answer["GENERATED"], expected.images)
                assert set(wire.ask("icgan", inputs, ["GENERATED"])) == {"GENERATED"}


def test_a_refused_request_is_refused_again(start, tiny_bundle):
    """The server would keep a refusal of a stage as an answer without outputs."""
    server = start(tiny_bundle, cache_mb=8)
    bad = [
        {"IMAGE": [b"no picture"], **rows(1), "FORMAT": [b"image/png"]},
        {"IMAGE": [PHOTO], **rows(1, SEED=[-1]), "FORMAT": [b"image/png"]},
        {"IMAGE": [PHOTO], **rows(1), "FORMAT": [b"image/gif"]},
    ]
    with Wire(server, "grpc") as wire:
        for inputs in bad:
            said = []
            for _ in range(2):
                with pytest.raises(RefusedError) as refused:
                    wire.ask("icgan_file", inputs)
                said.append(refused.value.words)
            assert said[0] == said[1]


def executions(server) -> dict[str, int]:
    """How often the versions of each model that keeps answers have computed."""
    answer = json.loads(server.call("v2/models/stats"))
    counts: dict[str, int] = {}
    for entry in answer["model_stats"]:
        if entry["name"] in KEEPING:
            counts[entry["name"]] = counts.get(entry["name"], 0) + int(entry["execution_count"])
    return counts
