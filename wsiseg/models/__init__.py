"""Segmenters: networks with decoders, and a classical method; chosen by name through the registry.

Importing this package imports neither torch nor a network.
"""
