"""Basla et al.'s renderer: masks in the style of real tiles, by adaptive instance normalisation (AdaIN)."""
