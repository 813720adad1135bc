from contextlib import suppress

from icgan_training.files import atomic_file


def test_a_file_is_replaced_only_by_one_that_was_written_to_the_end(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    with suppress(KeyboardInterrupt), atomic_file(path) as partial:
        partial.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with atomic_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
