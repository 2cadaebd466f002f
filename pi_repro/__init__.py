"""Rebuild, check and vary the Perceptual-Initialization experiment (arXiv 2505.14204)."""

__version__ = "0.1.0"
