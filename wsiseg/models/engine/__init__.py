"""What computes a network: devices, precision, windows, and the backends."""
