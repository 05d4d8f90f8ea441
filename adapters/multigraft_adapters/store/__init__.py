"""The store: adapter files by digest, in a local folder or in an object store."""

from multigraft_adapters.store.blobs import Blobs
from multigraft_adapters.store.check import Problem, check
from multigraft_adapters.store.collection import DEFAULT_GRACE_S, Collected, collect
from multigraft_adapters.store.folder import FolderStore
from multigraft_adapters.store.objects import ObjectStore
from multigraft_adapters.store.opening import DEFAULT_TIMEOUT_S, STORE_FOLDER, open_store
from multigraft_adapters.store.store import Store, Stored

__all__ = [
    "DEFAULT_GRACE_S",
    "DEFAULT_TIMEOUT_S",
    "STORE_FOLDER",
    "Blobs",
    "Collected",
    "FolderStore",
    "ObjectStore",
    "Problem",
    "Store",
    "Stored",
    "check",
    "collect",
    "open_store",
]
