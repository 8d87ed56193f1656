"""Heddle: an open, adaptive-compute language-model family and everything needed to own one."""

__version__ = "0.1.0"
