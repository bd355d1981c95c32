"""Slides: one value for every format, pixels at any scale, lazy views that copy nothing."""

from wsiseg.slide.mpp import MppTable, read_mpp_table
from wsiseg.slide.open import SlideSource, open_slide
from wsiseg.slide.slide import Slide
from wsiseg.slide.types import Description, Level, Lost, Mpp, Reader, Unread

__all__ = [
    "Description",
    "Level",
    "Lost",
    "Mpp",
    "MppTable",
    "Reader",
    "Slide",
    "SlideSource",
    "Unread",
    "open_slide",
    "read_mpp_table",
]
