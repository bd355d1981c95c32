"""The kinds of training data, by the name that a recipe gives them. See docs/training-data.md."""

from __future__ import annotations

from wsiseg.train.source import Source
from wsiseg.train.sources.folder import FolderSource
from wsiseg.train.sources.images import ImagesSource
from wsiseg.train.sources.pseudo import PseudoSource
from wsiseg.train.sources.rendered import RenderedSource
from wsiseg.train.sources.run import RunSource
from wsiseg.train.sources.snow import SnowSource
from wsiseg.train.sources.synthetic import SyntheticSource

KINDS: dict[str, type[Source]] = {
    "folder": FolderSource,
    "images": ImagesSource,
    "pseudo": PseudoSource,
    "rendered": RenderedSource,
    "run": RunSource,
    "snow": SnowSource,
    "synthetic": SyntheticSource,
}
