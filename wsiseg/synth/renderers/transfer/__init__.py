"""Texture transfer after Hou et al.: nuclei in a real tile's colours over that tile without its own, and a refiner."""
