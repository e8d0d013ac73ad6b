"""Text in an object store is brought to this worker before it is read: prepare reads it three times, and walks folders.

Each path of a source below s3:// becomes that of a folder or file in scratch, where it goes by the same names.
"""

from collections.abc import Iterator
from pathlib import Path

from trainyard_api.stages import Source
from trainyard_api.storage import open_storage

from ..errors import PermanentError
from ..scratch import Known, Note, fetch, folder_of, is_folder, make_scratch, refuse_stray
from .sources import Document, read_sources


def fetch_sources(sources: list[Source], root: str, note: Note) -> list[Source]:
    """The sources, all on this machine; those that weren't are there now. Relative paths start at `root`, a URI."""
    return [
        source.model_copy(update={"path": str(_fetch(uri, f"prepare.sources[{number}]", note))})
        if (uri := _uri(source, root))
        else source
        for number, source in enumerate(sources)
    ]


def read_fetched(sources: list[Source], root: str) -> Iterator[Document]:
    """As `read_sources`; what is wrong with a file is told of where the user has it."""
    try:
        yield from read_sources(sources, root=folder_of(root, "sources"))
    except PermanentError as error:
        raise PermanentError(str(error).replace(f"{folder_of('s3://', 'sources')}/", "s3://")) from error


def _uri(source: Source, root: str) -> str:
    """Where the source is, if that is an object store."""
    path = source.path or ""
    if path.startswith("s3://"):
        return path.rstrip("/")
    return "" if not path or is_folder(root) or Path(path).is_absolute() else f"{root.rstrip('/')}/{path.strip('/')}"


def _fetch(uri: str, field: str, note: Note) -> Path:
    try:
        storage = open_storage(uri)
    except ValueError as error:
        raise PermanentError(f"{field}.path: {error}") from None
    sizes = storage.sizes()
    place = folder_of(uri, "sources")
    if not sizes:
        above, _, name = uri.rpartition("/")
        storage, place = open_storage(above), place.parent
        try:
            sizes = {name: storage.size(name)}
        except FileNotFoundError:
            raise PermanentError(
                f"{field}.path: {uri} does not exist; put the data there or correct the path"
            ) from None
    for path in sizes:
        refuse_stray(path, uri)
    make_scratch(place)
    try:
        fetch(storage, [Known(path, size) for path, size in sizes.items()], place, note)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise PermanentError(
            f"{field}.path: {uri}: {error.filename} is both an object and a folder of others; rename one"
        ) from None
    return folder_of(uri, "sources")
