"""Renderers: pixels for a layout, or an image and what was found in it."""
