import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icgan_runtime import files
from icgan_runtime.errors import BundleError, IcganError, IntegrityError


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from(["..", ".", "a", "", "\\", "C:"]), max_size=5).map("/".join)
)
def test_a_safe_name_never_leaves_its_folder(name):
    if files.is_safe_name(name):
        root = Path("/some/folder")
        assert Path(os.path.normpath(root / name)).is_relative_to(root)
        assert Path(os.path.normpath(root / name)) != root


@pytest.mark.parametrize(
    "name", ["a", "bank/ids.npy", "engines/sm90-trt10.14.1/generator.plan", "a+b_c-d.1", "x" * 200]
)
def test_ordinary_names_are_safe(name):
    assert files.is_safe_name(name)


def test_locate_finds_a_file_and_refuses_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x")
    assert files.locate(tmp_path, "a/b").read_bytes() == b"x"
    with pytest.raises(IntegrityError, match="a: not a regular file"):
        files.locate(tmp_path, "a")
    with pytest.raises(IntegrityError, match=r"'\.\./x': not a plain relative file name"):
        files.locate(tmp_path, "../x")


def test_reading_stops_at_the_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(BundleError, match="a: 5 bytes, at most 4 are accepted"):
        files.read_bounded(tmp_path / "a", 4)


def test_hashes_of_bytes_and_of_a_file_agree(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(b"abc") == files.sha256_of_file(tmp_path / "a") == digest


def write_and_fail(path):
    path.write_text("half")
    raise RuntimeError


def test_an_atomic_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    with files.atomic_file(target) as path:
        path.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    with pytest.raises(RuntimeError), files.atomic_file(target) as path:
        write_and_fail(path)
    assert target.read_text() == "one"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_atomic_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "bundle"
    with files.atomic_directory(target) as path:
        (path / "a").write_text("one")
        assert not target.exists()
    with pytest.raises(RuntimeError), files.atomic_directory(target) as path:
        write_and_fail(path / "b")
    assert os.listdir(target) == ["a"]
    with files.atomic_directory(target) as path:
        (path / "c").write_text("three")
    assert os.listdir(target) == ["c"]
    assert os.listdir(target.parent) == ["bundle"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_where_no_folder_can_be_made_the_command_line_hears_it_as_a_refusal():
    expected = pytest.raises(PermissionError, match="no folder can be made there: '/proc/x'")
    with expected, files.atomic_directory(Path("/proc/x/y")):
        pass


def test_a_kill_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from icgan_runtime.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(files.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, target], cwd=root)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_the_cache_is_where_it_is_wanted_or_in_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("ICGAN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert files.cache_folder() == tmp_path / "home" / ".cache" / "icgan"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg" / "icgan"
    monkeypatch.setenv("ICGAN_CACHE", str(tmp_path / "ours"))
    assert files.cache_folder() == tmp_path / "ours"
    assert (tmp_path / "ours").is_dir()


def test_a_user_without_a_home_reads_which_variable_to_set(monkeypatch):
    """As in a container that runs under any user id."""
    for name in ("ICGAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    nobody = 54321
    monkeypatch.setattr(os, "getuid", lambda: nobody)
    with pytest.raises(IcganError, match="no home folder: set ICGAN_CACHE"):
        files.cache_folder()


def test_a_cache_that_may_not_be_made_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ICGAN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(IcganError, match=r"below cannot be made .*: set ICGAN_CACHE to another"):
        files.cache_folder()
