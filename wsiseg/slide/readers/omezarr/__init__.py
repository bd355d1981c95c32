"""OME-Zarr images, and the stores that ``wsiseg tile`` writes."""
