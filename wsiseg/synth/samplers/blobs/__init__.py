"""Basla et al.'s masks: shapes between two real nuclei, placed greedily by a prior and by real spacings.

"An Expert-Driven Data Generation Pipeline for Histological Images" (Basla, Giulivi, Magri, Boracchi);
docs/synthesis.md says what the paper gives, and what differs here.
"""
