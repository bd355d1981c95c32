"""AdaIN's training: a decoder that learns to paint masks in the style of real patches, as an encoder sees them."""
