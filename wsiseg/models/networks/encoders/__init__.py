"""Image classifiers as encoders: five feature maps, at 1/2 to 1/32; parameters named as where their weights come from."""
