"""Training of StyleGAN2 with adaptive augmentation: discriminator, augmentation, losses, contest."""
