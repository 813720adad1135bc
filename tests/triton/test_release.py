"""Another bank, or all that belongs together, under a running server: nobody fails, nobody gets a mixture."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from icgan_runtime import Pipeline
from icgan_runtime.server.repository import add_release, set_release
from tests.models.make_models import make_bundle
from tests.runtime.server.test_repository import other_bank
from tests.triton.conftest import quiet
from tests.triton.test_icgan import PHOTO
from tests.triton.wire import Wire, rows


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


def test_a_kept_embedding_spares_the_encoder_and_does_not_outlive_a_swap_of_it(start, tiny_bundle, tmp_path):
    server = start(tiny_bundle, cache_mb=8)
    other = everything_else(tiny_bundle, tmp_path)
    with Wire(server, "grpc") as wire:

        def ask() -> dict[str, np.ndarray]:
            return wire.ask("icgan", {"IMAGE": [PHOTO] * 2, **rows(2)})

        first = ask()
        computed = executions(server, "icgan_encoder")
        for name, array in ask().items():
            np.testing.assert_array_equal(array, first[name])
        assert executions(server, "icgan_encoder") == computed, "the second answer is kept"
        for bundle, change in (
            (other, lambda: add_release(other, server.repository, quiet)),
            (tiny_bundle, lambda: set_release(server.repository, 1)),
        ):
            for model in change():
                server.load(model)
            with Pipeline.load(bundle) as pipe:
                expected = pipe.generate(PHOTO, n=2, truncation=0.7)
            for _ in range(2):  # the second is kept
                answer = ask()
                np.testing.assert_array_equal(answer["GENERATED"], expected.images)
                np.testing.assert_array_equal(answer["EMBEDDING"][0], expected.embedding)


def executions(server, model: str) -> int:
    """How often a model's first version has computed."""
    answer = json.loads(server.call(f"v2/models/{model}/versions/1/stats"))
    return int(answer["model_stats"][0]["execution_count"])
