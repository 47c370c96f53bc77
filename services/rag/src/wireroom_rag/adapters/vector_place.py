"""Where vectors are kept beside the database: a folder or a bucket with a name of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore

from wireroom_common.error_text import describe_error
from wireroom_common.errors import OperatorError
from wireroom_common.ids import new_id
from wireroom_rag.adapters.blobs import BucketAccess, bucket

# Holds the name; put back by hand when everything else was lost, so that what is left can be rebuilt and deleted.
NAME_FILE = "store-id"
_MOST_NAME = 100


@dataclass
class VectorPlace:
    """A place and how to reach it. Its name is made once and stays with what is stored: another, empty one is not taken for it."""

    uri: str
    objects: ObjectStore
    options: Mapping[str, str] = field(default_factory=dict)
    _name: str = ""

    @classmethod
    def at(cls, url: str, default: Path, access: BucketAccess) -> VectorPlace:
        """The place that `url` names: `s3://bucket/prefix`, `file:///folder`, or empty for the folder `default`."""
        parts = urlsplit(url)
        try:
            if not url or (parts.scheme == "file" and parts.path):
                folder = Path(unquote(parts.path)) if url else default
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                return cls(str(folder), LocalStore(folder))
            if parts.scheme == "s3" and parts.netloc:
                return cls(url.rstrip("/"), bucket(url, access), _options(access))
        except (BaseError, OSError, ValueError) as error:
            raise OperatorError(
                f"The place of the vectors, '{url or default}' (see WIREROOM_RAG_VECTORS_AT), cannot be used: {describe_error(error)}"
            ) from None
        raise OperatorError(f"WIREROOM_RAG_VECTORS_AT is '{url}', but must be empty, file:///folder or s3://bucket/prefix.")

    async def name(self) -> str:
        """`lancedb:` and an id; the same in every process that uses the place."""
        if not self._name:
            fresh = f"lancedb:{new_id()}".encode()
            try:
                await obstore.put_async(self.objects, NAME_FILE, fresh, mode="create")
            except AlreadyExistsError:
                found = bytes(await (await obstore.get_async(self.objects, NAME_FILE)).bytes_async())
                self._name = found.decode()[:_MOST_NAME].strip()
            else:
                self._name = fresh.decode()
        return self._name

    async def confirm(self) -> None:
        """OSError unless the place is still there: a folder that is not mounted must not be taken for an empty one."""
        try:
            found = bytes(await (await obstore.get_async(self.objects, NAME_FILE)).bytes_async())
        except FileNotFoundError as error:
            msg = f"There is no {NAME_FILE} in the place of the vectors any more."
            raise OSError(msg) from error
        if found.decode()[:_MOST_NAME].strip() != await self.name():
            msg = "The place of the vectors is another one than before."
            raise OSError(msg)


def _options(access: BucketAccess) -> dict[str, str]:
    options = {"timeout": f"{access.timeout:g}s", "aws_region": access.region or "us-east-1"}
    if access.endpoint:
        options |= {"aws_endpoint": access.endpoint, "allow_http": str(access.endpoint.startswith("http://")).lower()}
    if access.access_key:
        options |= {"aws_access_key_id": access.access_key, "aws_secret_access_key": access.secret_key}
    return options
