"""The miniatures: small synthetic data sets in the real ones' layouts, for the demo and the tests."""

from omniad.miniature.writers import write_miniature

__all__ = ["write_miniature"]
