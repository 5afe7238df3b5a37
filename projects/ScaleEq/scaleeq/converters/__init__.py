"""The weights of other people's checkpoints under our names: a file for each layout."""

from .fapn import convert_fapn_weights

__all__ = ["convert_fapn_weights"]
