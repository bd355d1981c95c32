"""Values and pure functions that all else is made of: geometry, nuclei, rasters, files that are whole."""
