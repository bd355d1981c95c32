"""Training of Points2Image: losses, discriminators, image pool, contest."""
