"""Points2Image: a generator from layouts to images, learnt from unpaired images of which only points are known.

The method is that of Li, Ren et al. 2023 (arXiv:2308.09835). :mod:`wsiseg.train.generators.points2image` trains it.
"""
