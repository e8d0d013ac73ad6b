"""What a user has in an object store is brought to this worker before it is read: prepare reads text three times, and walks
folders; a tokenizer or a model is opened by libraries that know only files.

Each path below s3:// becomes that of a folder or file in scratch, where it goes by the same names.
"""

from collections.abc import Iterator
from pathlib import Path

from trainyard_api.stages import Source
from trainyard_api.storage import open_storage

from ..errors import PermanentError
from ..scratch import Known, Note, fetch, folder_of, is_folder, make_scratch, one_at_a_time, refuse_stray
from .sources import Document, read_sources


def fetch_sources(sources: list[Source], root: str, note: Note) -> list[Source]:
    """The sources, all on this machine; those that weren't are there now. Relative paths start at `root`, a URI."""
    return [
        source.model_copy(update={"path": str(_fetch(uri, f"prepare.sources[{number}].path", note))})
        if (uri := _uri(source.path or "", root))
        else source
        for number, source in enumerate(sources)
    ]


def fetch_file(path: str, root: str, field: str, note: Note) -> Path:
    """A file that the user has, on this machine; whether it is there is for who opens it."""
    uri = _uri(path, root)
    return _fetch(uri, field, note) if uri else folder_of(root, "sources") / path


def fetch_folder(path: str, root: str, field: str, once: str, note: Note) -> Path:
    """A folder that the user has, on this machine. Of the processes here that say the same `once`, one fetches it."""
    if not (uri := _uri(path, root)):
        folder = folder_of(root, "sources") / path
        if not folder.is_dir():
            raise PermanentError(f"{field}: {folder} is no folder; put it there or correct the path")
        return folder
    folder = folder_of(uri, "sources")
    fetched = folder.with_name(f"{folder.name}.fetched")
    with one_at_a_time(folder, waiting=lambda: note(f"{uri} is being fetched")):
        if not fetched.exists() or fetched.read_text() != once:
            _fetch(uri, field, note)
            fetched.write_text(once)
    return folder


def read_fetched(sources: list[Source], root: str) -> Iterator[Document]:
    """As `read_sources`; what is wrong with a file is told of where the user has it."""
    try:
        yield from read_sources(sources, root=folder_of(root, "sources"))
    except PermanentError as error:
        raise PermanentError(str(error).replace(f"{folder_of('s3://', 'sources')}/", "s3://")) from error


def _uri(path: str, root: str) -> str:
    """Where it is, if that is an object store."""
    if path.startswith("s3://"):
        return path.rstrip("/")
    return "" if not path or is_folder(root) or Path(path).is_absolute() else f"{root.rstrip('/')}/{path.strip('/')}"


def _fetch(uri: str, field: str, note: Note) -> Path:
    try:
        storage = open_storage(uri)
    except ValueError as error:
        raise PermanentError(f"{field}: {error}") from None
    sizes = storage.sizes()
    place = folder_of(uri, "sources")
    if not sizes:
        above, _, name = uri.rpartition("/")
        storage, place = open_storage(above), place.parent
        try:
            sizes = {name: storage.size(name)}
        except FileNotFoundError:
            raise PermanentError(f"{field}: {uri} does not exist; put the data there or correct the path") from None
    for path in sizes:
        refuse_stray(path, uri)
    make_scratch(place)
    try:
        fetch(storage, [Known(path, size) for path, size in sizes.items()], place, note)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise PermanentError(
            f"{field}: {uri}: {error.filename} is both an object and a folder of others; rename one"
        ) from None
    return folder_of(uri, "sources")
