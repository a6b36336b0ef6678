"""Files at URLs, as gs://bucket/folder: whatever `tf.io.gfile` reads."""

import functools
import hashlib
import zipfile
from typing import BinaryIO

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError
from tfpipe.sources import label_list, labels, member
from tfpipe.sources.file import read_file, stamp, stamps
from tfpipe.sources.listing import Listing
from tfpipe.sources.source import Source
from tfpipe.sources.tar import TAR_BLOCK, Tar, begins_archive, compression_of
from tfpipe.sources.tfrecords import TFRecords, begins_with_frame, is_data_set, is_shard_name
from tfpipe.sources.zip import Zip


class RemoteFolder(Source):
    """Files in a folder and the folders below it."""

    kind = "a folder"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102 (the base class says it)
        with remote.gfile(path) as gfile:
            return gfile.isdir(path)

    def prepare(self) -> None:  # noqa: D102
        storage.exists(self.path)  # which loads TensorFlow

    def read(self, name: str) -> bytes:  # noqa: D102
        return read_file(self.locate(name), follow=True)

    def fingerprint(self) -> str:
        """Returns a hex digest of the members' names, sizes and times."""
        digest = hashlib.sha256(super().fingerprint().encode())
        names = self.names()
        for name, found in zip(names, stamps([*map(self.locate, names)]), strict=True):
            if isinstance(found, OSError):
                raise UserError(
                    f"{self.locate(name)} was listed and cannot be read ({found.strerror}): run the"
                    " command again when nothing writes to --source"
                )
            digest.update(repr(found).encode())
        return digest.hexdigest()

    @functools.cached_property
    def _listing(self):
        members, skipped = {}, []
        root = self.path.rstrip("/")
        with remote.gfile(root) as gfile:
            for folder, _, names in gfile.walk(root):
                for name in names:
                    name = f"{folder.rstrip('/')}/{name}"[len(root) + 1 :]
                    if member.is_ignored(name):
                        continue
                    if member.is_archive(name):
                        skipped.append((name, *member.NESTED))
                    else:
                        # No size and time, a request each: copies in workers do not need them.
                        members[name] = ()
        return members, skipped


class RemoteZip(Zip):
    """Members of a zip archive, of which only those that are read are fetched."""

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        with storage.open_to_read(path) as file:
            return zipfile.is_zipfile(file)

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(storage.open_to_read(self.path))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{self.path} is a damaged zip archive ({error}): copy or upload it again"
            ) from None


class RemoteTar(Tar):
    """Members of a tar archive, of which only those that are read are fetched."""

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        with storage.open_to_read(path) as file:
            return begins_archive(file.read(TAR_BLOCK))

    def _read_at(self, offset: int, size: int) -> bytes:
        return storage.read_whole(self.path, offset, size) or b""

    def _modified(self) -> int:
        return stamp(self.path)[1]

    @functools.cached_property
    def _file(self) -> BinaryIO:
        file = storage.open_to_read(self.path)
        if compression_of(file.read(TAR_BLOCK)):
            raise UserError(
                f"{self.path} is a compressed tar archive, which cannot be read in place at a URL:"
                " uncompress it there, or name a copy on this machine"
            )
        return file


class RemoteTFRecords(TFRecords):
    """The images of a data set of tfpipe, of a folder that holds only TFRecord files, or of one.

    All of them are read once to be listed, wherever they are.
    """

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        with remote.gfile(path) as gfile:
            if not gfile.isdir(path):
                return is_shard_name(path) or begins_with_frame(path)
            if is_data_set(path):
                return True
            entries = [e for e in gfile.listdir(path) if not member.is_ignored(e.rstrip("/"))]
            if not any(map(is_shard_name, entries)) or any(map(labels.is_image_name, entries)):
                return False
            # A request for each, so of images never.
            return not any(e.endswith("/") or gfile.isdir(f"{path}/{e}") for e in entries)

    def prepare(self) -> None:  # noqa: D102
        storage.exists(self.path)  # which loads TensorFlow

    @functools.cached_property
    def _is_folder(self) -> bool:
        with remote.gfile(self.path) as gfile:
            return gfile.isdir(self.path)

    def _shard_names(self) -> list[str]:
        names = storage.names_in(self.path)
        return sorted(name for name in names if is_shard_name(name) and not member.is_ignored(name))

    def _stamp(self, path: str) -> str:
        return repr(stamp(path))


class RemoteListing(Listing):
    """Files that a list at a URL names, relative to its folder, or by URLs."""

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        return path.lower().endswith(label_list.SUFFIXES)
