"""geoslave: map and measure the places of modern slavery that can be seen from space."""

__version__ = "0.1.0"
