"""The version of this package, which checkpoints, bundles and certificates carry."""

__version__ = "1.0.0"
