"""Rendered H&E patches with exact instance labels: real tissue textures, drawn nuclei, no human outline.

The idea is that of Hou et al. 2020 (doi:10.1038/s41597-020-0528-1): the background and the colours of a real patch,
nuclei drawn by the program. What differs here is the shape model (smooth harmonics), the arrangement of nuclei
(sheets, palisades, rings, clusters) and the unlabelled distractors.
"""
