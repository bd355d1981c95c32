"""Compiled functions work wherever nothing, or not all, can be written, and never run what others planted."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core import caching

from wsiseg.core import compiled as compiling
from wsiseg.core.compiled import cache_folder, compiled, load_compiled


def added(x: int) -> int:
    return x + 1


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files of its own: the only one where anything can be written."""
    folder = tmp_path / "temporary"
    folder.mkdir(mode=0o700)
    ensure = caching._CacheLocator.ensure_cache_path

    def refused(self: Any) -> None:
        if not Path(self.get_cache_path()).is_relative_to(folder):
            raise PermissionError(self.get_cache_path())
        ensure(self)

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refused)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    compiling._own_folder.cache_clear()
    yield folder
    compiling._own_folder.cache_clear()


def own(temporary: Path) -> Path:
    return temporary / f"wsiseg-{os.geteuid()}"


def test_without_a_cache_of_numbas_own_a_folder_of_this_user_is_taken(temporary: Path) -> None:
    assert compiled(added)(3) == 4
    assert list(own(temporary).rglob("*.nbi"))
    assert stat.S_IMODE(own(temporary).stat().st_mode) == 0o700
    found = cache_folder()
    assert found is not None
    assert found.is_relative_to(own(temporary))
    assert numba.config.CACHE_DIR == ""  # other packages keep theirs where they did


def test_what_is_kept_is_loaded_before_it_is_called(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_KEPT", [])
    compiled(added)(3)
    loaded = compiled(added)
    assert not loaded.signatures
    load_compiled()
    assert loaded.signatures == [(numba.int64,)]
    assert sum(loaded.stats.cache_hits.values()) == 1
    assert loaded(3) == 4


def plant(temporary: Path, how: str) -> None:
    if how == "writable":
        own(temporary).mkdir()
        own(temporary).chmod(0o777)
    elif how == "readable":
        own(temporary).mkdir(mode=0o755)
    elif how == "link":
        (temporary / "theirs").mkdir(mode=0o700)
        own(temporary).symlink_to("theirs")
    elif how == "file":
        own(temporary).write_text("mine")
    elif how == "another's":
        own(temporary).mkdir(mode=0o700)
        os.chown(own(temporary), 12345, 12345)
    else:  # no sticky bit: anybody could rename the folder away and put another in its place
        temporary.chmod(0o777)


@pytest.mark.parametrize("how", ["writable", "readable", "link", "file", "another's", "no sticky bit"])
def test_a_folder_that_others_can_fill_is_not_read(temporary: Path, how: str) -> None:
    if how == "another's" and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    plant(temporary, how)
    assert compiled(added)(3) == 4
    assert cache_folder() is None
    assert not list(temporary.rglob("*.nbi"))


def test_without_any_place_nothing_is_kept(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert compiled(added)(3) == 4
    assert cache_folder() is None


def test_a_user_without_a_home_gets_no_folder_of_that_name(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert compiled(added)(3) == 4
    assert list((tmp_path / "here").iterdir()) == []
    assert list(own(temporary).rglob("*.nbi"))


def test_a_damaged_or_full_cache_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert compiled(added)(3) == 4
    for pattern in ("*.nbi", "*.nbc"):
        (file,) = tmp_path.rglob(pattern)
        file.write_bytes(file.read_bytes()[:7])
        assert compiled(added)(3) == 4
        assert file.stat().st_size > 7  # mended

    def full(self: Any, key: Any, data: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert compiled(added)(3.5) == 4.5
