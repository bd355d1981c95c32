"""Hou et al.'s synthesis: polygon nuclei on inpainted tissue, a refiner, and weights by how real a patch looks.

The method is that of Hou et al. 2019, "Robust Histopathology Image Analysis: To Label or to Synthesize?"
(doi:10.1109/CVPR.2019.00873), with the distributions of the release of Hou et al. 2020
(doi:10.1038/s41597-020-0528-1). docs/synthesis.md lists them, and what differs here.
"""
