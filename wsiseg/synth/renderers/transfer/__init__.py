"""Texture transfer after Hou et al.: nuclei in a real tile's colours over that tile, and a refiner."""
