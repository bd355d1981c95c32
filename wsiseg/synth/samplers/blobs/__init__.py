"""Basla et al.'s masks: shapes between two real nuclei, placed greedily by a prior and by real spacings.

"An expert-driven data generation pipeline for histological images", arXiv:2406.01403. docs/synthesis.md says what the paper
gives, and what differs here.
"""
