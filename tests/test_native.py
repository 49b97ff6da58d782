import shutil
import threading

import pytest

from jepakit import native

HAS_COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, and nothing remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.compiled.cache_clear()
    yield tmp_path
    native.compiled.cache_clear()


@pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler here")
def test_compiled_once_and_found_again(fresh, monkeypatch):
    source = fresh / "add.c"
    source.write_text("int add(int a, int b) { return a + b; }")
    assert native.compiled(source).add(2, 3) == 5
    made = list(native.cache_folder().iterdir())
    assert len(made) == 1
    native.compiled.cache_clear()
    monkeypatch.setattr(native.subprocess, "run", None)  # would fail if it were called
    assert native.compiled(source).add(2, 3) == 5


def test_without_a_compiler_or_with_code_it_refuses_there_is_none(fresh, monkeypatch):
    source = fresh / "broken.c"
    source.write_text("this is no C")
    assert native.compiled(source) is None
    monkeypatch.setenv("JEPAKIT_NATIVE", "0")
    fine = fresh / "fine.c"
    fine.write_text("int one(void) { return 1; }")
    assert native.compiled(fine) is None
    monkeypatch.setenv("JEPAKIT_NATIVE", "1")
    monkeypatch.setenv("CC", "/nowhere/cc")
    native.compiled.cache_clear()
    assert native.compiled(fine) is None


def test_a_cache_that_cannot_be_written_is_no_error(fresh, monkeypatch):
    (fresh / "cache").write_text("a file where the folder should be")
    source = fresh / "one.c"
    source.write_text("int one(void) { return 1; }")
    assert native.compiled(source) is None


@pytest.mark.parametrize(("count", "threads"), [(10, 1), (10, 3), (2, 4), (0, 2)])
def test_threads_share_the_range(count, threads):
    done, lock = [], threading.Lock()

    def work(first, last):
        with lock:
            done.extend(range(first, last))

    native.in_threads(work, count, threads)
    assert sorted(done) == list(range(count))
