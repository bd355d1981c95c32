"""Tiled TIFF read directly: SVS and its relatives, OME-TIFF, ImageJ."""
