"""Pluct Business Engine: prepaid credits in, single-use tickets out."""

__version__ = "0.1.0"
