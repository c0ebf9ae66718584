"""The version of this package, which checkpoints, bundles and certificates carry."""

__version__ = "0.1.0"
