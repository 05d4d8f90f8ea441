"""The ground floor of multigraft: what an adapter is, where it is kept, and the bases it fits."""

__version__ = "0.1.0"
