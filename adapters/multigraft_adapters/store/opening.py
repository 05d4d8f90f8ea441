"""Opens the store that a URL names, or the one in the data folder."""

from __future__ import annotations

import re
from pathlib import Path

from obstore.exceptions import BaseError

from multigraft_adapters.errors import SetupError, StoreUnavailableError
from multigraft_adapters.store.folder import FolderStore
from multigraft_adapters.store.objects import ObjectStore
from multigraft_adapters.store.store import Store

STORE_FOLDER = "store"
DEFAULT_TIMEOUT_S = 30.0

_NOWHERE = "sha256:" + "0" * 64
_S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9._-]+(/[^?#]*)?")


def open_store(data_dir: Path, url: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Store:
    """The store at `s3://bucket/prefix`; without a URL the folder `store` of the data folder.

    `timeout_s` is the longest silence of an object store. Raises DataFolderError when the folder, SetupError
    when the URL cannot be used.
    """
    if url is None:
        return FolderStore(data_dir / STORE_FOLDER)
    if not _S3_URL.fullmatch(url):
        raise SetupError(f"the store {url!r} is not a URL of the form s3://bucket/prefix")
    try:
        store = ObjectStore.of_s3(url, timeout_s)
        _ = _NOWHERE in store
    except StoreUnavailableError as error:
        raise SetupError(f"the adapter store cannot be used: {error.data['reason']}") from error
    except (BaseError, ValueError) as error:
        raise SetupError(f"the adapter store {url} cannot be used: {str(error).splitlines()[0]}") from error
    return store
