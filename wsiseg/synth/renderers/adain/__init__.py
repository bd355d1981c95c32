"""Basla et al.'s renderer: masks in the style of real tiles, by adaptive instance normalisation (AdaIN).

:mod:`wsiseg.train.generators.adain` trains it.
"""
