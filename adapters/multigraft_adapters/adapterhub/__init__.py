"""AdapterHub's bottleneck adapters (the library `adapters`) as artifacts of ours."""

from multigraft_adapters.adapterhub.convert import convert

__all__ = ["convert"]
