"""wsiseg: whole-slide nucleus segmentation on Dask, with exact seams and a grade for each slide."""

__version__ = "0.1.0"
