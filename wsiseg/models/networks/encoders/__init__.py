"""Image classifiers as encoders: five feature maps, 1/2 to 1/32; parameters named as where weights come from."""
