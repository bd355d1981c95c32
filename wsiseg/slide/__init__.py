"""Slides: one value for every format, pixels at any scale, lazy views that copy nothing."""
