from io import StringIO

from icgan_training.progress import Progress


def test_a_log_gets_the_final_count_once():
    log = StringIO()
    with Progress(3, "prepare", "pictures", stream=log) as progress:
        progress.last_line = float("-inf")  # the last line was long ago
        progress.advance(3)
    assert log.getvalue().count("3/3 pictures") == 1


def test_nothing_done_prints_nothing():
    log = StringIO()
    with Progress(3, "prepare", "pictures", done=3, stream=log):
        pass
    assert log.getvalue() == ""
