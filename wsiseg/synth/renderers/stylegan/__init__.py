"""SNOW's generator: StyleGAN2 with adaptive augmentation, an image for each seed, labelled by a segmenter.

After Ding et al. 2023 (doi:10.1038/s41597-023-02125-y) and Karras et al. 2020 (arXiv:1912.04958, arXiv:2006.06676).
:mod:`wsiseg.train.generators.stylegan` trains it.
"""
