"""Several servers as one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from icgan_runtime.chain import LocalChain
from icgan_runtime.errors import BindingError, UnavailableError
from icgan_runtime.rows import Rows
from icgan_runtime.synthesize import fleet as fleet_file
from icgan_runtime.synthesize.fleet import Fleet
from icgan_runtime.synthesize.work import ordered


class Server:
    """A chain that counts what it is asked, and can be out of reach."""

    def __init__(self, chain: LocalChain) -> None:
        self.chain, self.asked, self.gone = chain, 0, False

    def __getattr__(self, name):
        return getattr(self.chain, name)

    def generate_rows(self, embedding, rows):
        self.asked += 1
        if self.gone:
            raise UnavailableError("gone")
        return self.chain.generate_rows(embedding, rows)


@pytest.fixture
def servers(tiny_bundle):
    chain = LocalChain.load(tiny_bundle, threads=1)
    yield [Server(chain), Server(chain), Server(chain)]
    chain.close()


def rows(seed: int) -> Rows:
    one = np.array([seed])
    return Rows(one, one * 0, np.ones(1, np.float32), np.zeros(1, np.int32), None)


def test_all_are_asked_in_turn_and_the_answers_keep_their_order(servers):
    fleet, embedding = Fleet(servers), servers[0].bank.embeddings[:1]
    with ThreadPoolExecutor(6) as pool:
        found = list(ordered(pool, lambda seed: fleet.generate_rows(embedding, rows(seed))[0], range(12), 6))
    for seed, image in enumerate(found):
        np.testing.assert_array_equal(image, servers[0].chain.generate_rows(embedding, rows(seed))[0])
    assert [server.asked for server in servers] == [4, 4, 4]


def test_another_is_asked_when_one_is_gone_and_all_gone_is_said(servers, monkeypatch):
    monkeypatch.setattr(fleet_file, "_PAUSES_S", ())
    fleet, embedding = Fleet(servers), servers[0].bank.embeddings[:1]
    servers[0].gone = servers[1].gone = True
    fleet.generate_rows(embedding, rows(0))
    assert servers[2].asked == 1
    servers[2].gone = True
    with pytest.raises(UnavailableError):
        fleet.generate_rows(embedding, rows(1))


def test_servers_that_come_back_are_asked_again(servers, monkeypatch):
    fleet, embedding = Fleet(servers), servers[0].bank.embeddings[:1]
    for server in servers:
        server.gone = True

    def come_back(seconds: float) -> None:
        servers[1].gone = False

    monkeypatch.setattr("time.sleep", come_back)
    image, _ = fleet.generate_rows(embedding, rows(3))
    np.testing.assert_array_equal(image, servers[0].chain.generate_rows(embedding, rows(3))[0])


def test_servers_of_different_models_are_refused(servers, labelled_bundle):
    other = LocalChain.load(labelled_bundle, threads=1)
    with pytest.raises(BindingError, match="serves another model"):
        Fleet([servers[0], other])
    other.close()
