"""The mutation benchmark finds the files it names."""

import importlib

mutation = importlib.import_module("benchmarks.mutation")


def test_every_file_and_test_it_names_is_there():
    assert "bundle/manifest" in mutation.FILES
    for file in mutation.MUTATED:
        assert mutation.source(file).is_file()
    for test in (*mutation.TESTS, *mutation.HELPERS, mutation.SLOW.partition("::")[0]):
        assert (mutation.ROOT / test).exists()
