"""What spoils a slide, or gives its tissue nothing to segment, as one map at 8 µm/px: ``find_artefacts``."""
