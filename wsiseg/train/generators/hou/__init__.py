"""Training of Hou et al.'s refiner against its discriminator: losses, history, contest."""
