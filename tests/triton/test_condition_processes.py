"""Several processes that search the bank for one server answer as one does."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from icgan_runtime import Pipeline
from tests.triton.test_icgan import PHOTO


def test_three_processes_search_and_answer_as_one_does(start, tiny_bundle):
    server = start(tiny_bundle, condition_processes=3)
    assert Counter(server.stages().values())["icgan_condition"] == 3
    with Pipeline.load(tiny_bundle, threads=1) as local, Pipeline.connect(server.grpc_url) as remote:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda seed: remote.generate(PHOTO, n=2, seed=seed), range(48)))
        for seed, result in enumerate(found):
            expected = local.generate(PHOTO, n=2, seed=seed)
            assert np.abs(result.images.astype(int) - expected.images).max() <= 1
            np.testing.assert_array_equal(result.neighbours.ids, expected.neighbours.ids)
