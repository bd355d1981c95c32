"""The version of the package: here, so that what needs it does not import the public face."""

__version__ = "0.1.0"
