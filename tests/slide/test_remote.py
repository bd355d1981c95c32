"""Slides at URLs: copies, their room, and what changes at the other end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsiseg.core.url import is_url
from wsiseg.errors import EnvironmentFault, SlideError, UsageError
from wsiseg.slide import open_slide, remote
from wsiseg.slide.discover import find_slides
from wsiseg.slide.remote import copy_of, find_urls, forget, local, location, present, url_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_checked", {})
    fsspec.filesystem("memory").store.clear()
    yield tmp_path / "cache"
    fsspec.filesystem("memory").store.clear()


def put(url: str, content: bytes) -> str:
    with fsspec.open(url, "wb") as file:
        file.write(content)
    return url


def picture(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def look_again() -> None:
    """As if a minute had passed since copies were compared."""
    remote._checked.clear()


@given(
    st.lists(
        st.text(
            st.characters(exclude_characters="/?*[@", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12
        ),
        min_size=2,
        max_size=5,
    ).filter(lambda parts: not {".", ".."} & set(parts) and not Path(parts[-1]).suffix)
)
def test_a_copys_path_says_of_what_it_is_one(parts: list[str]) -> None:
    url = "s3://" + "/".join(parts)
    assert url_of(copy_of(url)) == url
    assert location(copy_of(url)) == url
    assert local(url) == local(copy_of(url)) == copy_of(url)


def test_another_machine_has_its_own_copy_of_the_same_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put("memory://bucket/a.png", picture(tmp_path / "a.png").read_bytes())
    theirs = copy_of(url)
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "elsewhere"))
    mine = present(theirs)
    assert mine != theirs
    assert mine.read_bytes() == (tmp_path / "a.png").read_bytes()
    assert not theirs.exists()


def test_other_paths_are_as_they_were(tmp_path: Path) -> None:
    assert present(tmp_path / "a.svs") == tmp_path / "a.svs"
    assert location("a.svs") == os.path.abspath("a.svs")
    assert url_of(tmp_path) is None
    forget(picture(tmp_path / "a.png"))
    assert (tmp_path / "a.png").exists()
    assert not is_url("C:/slides/a.svs")


def test_a_slide_is_opened_at_its_url(tmp_path: Path) -> None:
    url = put("memory://bucket/a.png", picture(tmp_path / "a.png").read_bytes())
    with open_slide(url, mpp=0.5) as far, open_slide(tmp_path / "a.png", mpp=0.5) as near:
        assert far.name == "a.png"
        assert far.fingerprint() == near.fingerprint()
        assert location(far.path) == url


def test_a_file_that_changed_is_fetched_again(tmp_path: Path) -> None:
    url = put("memory://bucket/a.png", picture(tmp_path / "a.png", 0).read_bytes())
    before = present(url).read_bytes()
    time.sleep(0.01)
    put(url, picture(tmp_path / "b.png", 1).read_bytes())
    look_again()
    assert present(url).read_bytes() == (tmp_path / "b.png").read_bytes() != before


def test_a_copy_outlives_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    url = put("memory://bucket/a.png", b"content")
    present(url)

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", refuse)
    look_again()
    assert present(url).read_bytes() == b"content"
    with pytest.raises(SlideError, match=r"cannot be fetched.*no route"):
        present("memory://bucket/b.png")


def test_what_breaks_off_leaves_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    url = put("memory://bucket/a.png", b"content")

    def half(_: object, name: str, target: str) -> None:
        Path(target).write_bytes(b"con")

    with monkeypatch.context() as broken:
        broken.setattr(type(fsspec.filesystem("memory")), "get_file", half)
        with pytest.raises(SlideError, match="3 bytes came, expected 7"):
            present(url)
    assert not copy_of(url).exists()
    assert present(url).read_bytes() == b"content"


def test_copies_make_room_for_each_other(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote.ROOM_VARIABLE, str(250 / (1 << 30)))
    urls = [put(f"memory://bucket/{n}.png", bytes(100)) for n in range(3)]
    for url in urls[:2]:
        present(url)
        time.sleep(0.02)
    look_again()
    present(urls[0])  # used again, so the other one goes
    present(urls[2])
    assert [copy_of(url).exists() for url in urls] == [True, False, True]
    assert present(urls[1]).exists()
    with pytest.raises(EnvironmentFault, match=remote.ROOM_VARIABLE):
        present(put("memory://bucket/large.png", bytes(300)))


def test_a_copy_is_forgotten(cache: Path) -> None:
    path = present(put("memory://bucket/a.png", b"content"))
    with path.open("rb") as held:
        forget(path)
        assert held.read() == b"content"
    assert not [file for file in cache.rglob("*") if file.is_file() and not file.name.startswith(".")]


def test_many_ask_and_one_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    url = put("memory://bucket/a.png", bytes(1000))
    kind = type(fsspec.filesystem("memory"))
    fetch, fetched = kind.get_file, []

    def slow(self: object, *names: object) -> None:
        fetched.append(names)
        time.sleep(0.1)
        fetch(self, *names)

    monkeypatch.setattr(kind, "get_file", slow)
    threads = [threading.Thread(target=present, args=(url,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1


def test_patterns_and_names() -> None:
    for name in ("b.svs", "a.svs", "c.txt"):
        put(f"memory://bucket/cohort/{name}", b"x")
    assert find_urls("memory://bucket/cohort/*.svs") == [
        "memory://bucket/cohort/a.svs",
        "memory://bucket/cohort/b.svs",
    ]
    found = find_slides(["memory://bucket/cohort/*.svs", "memory://bucket/cohort/a.svs"])
    assert [path.name for path in found] == ["a.svs", "b.svs"]
    with pytest.raises(UsageError, match="no file matches"):
        find_slides(["memory://bucket/*.ndpi"])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///slides/a.svs", "give its path"),
        ("https://host", "expected the URL of a slide"),
        ("s3://bucket/folder/", "expected the URL of a slide"),
        ("https://host/../a.svs", "has the part"),
        ("https://host/a.svs?X-Amz-Signature=1", "has a query"),
        ("sftp://me:secret@host/a.svs", "sftp://…@host: has a password"),
        ("s3://bucket/a.mrxs", "several files"),
    ],
)
def test_urls_that_are_no_slides(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        copy_of(url)


def test_what_is_not_there() -> None:
    with pytest.raises(SlideError, match="no such file"):
        open_slide("memory://bucket/none.svs")
    with pytest.raises(UsageError, match="protocol of fsspec"):
        open_slide("gopher://host/a.svs")
    put("memory://bucket/folder/a.svs", b"x")
    with pytest.raises(SlideError, match="is a folder"):
        open_slide("memory://bucket/folder")


def test_https(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    served = tmp_path / "served"
    served.mkdir()
    picture(served / "a slide.png")
    handler = partial(_Quiet, directory=str(served))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        copy = present(f"{base}/a slide.png")
        assert copy.read_bytes() == (served / "a slide.png").read_bytes()
        picture(served / "a slide.png", 1)
        os.utime(served / "a slide.png", (1, 1))  # the header counts seconds
        look_again()
        assert present(f"{base}/a slide.png").read_bytes() == (served / "a slide.png").read_bytes()
        with pytest.raises(SlideError, match="no such file"):
            present(f"{base}/none.png")
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_s3(s3: Any, tmp_path: Path) -> None:
    content = picture(tmp_path / "a.png").read_bytes()
    s3.mkdir("slides")
    with s3.open("slides/cohort/a.png", "wb") as file:
        file.write(content)
    assert find_urls("s3://slides/cohort/*.png") == ["s3://slides/cohort/a.png"]
    assert present("s3://slides/cohort/a.png").read_bytes() == content
    with pytest.raises(SlideError, match=r"no such file|may not be read"):
        present("s3://slides/none.png")
