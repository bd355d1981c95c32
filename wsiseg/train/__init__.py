"""Training of the networks on rendered and annotated patches."""
