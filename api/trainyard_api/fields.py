"""Kinds of values that settings of several parts have."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

StageName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=30)]
"""A stage's name: part of pod names and paths."""

FolderPath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""A folder: below the storage root where it is relative, or anywhere, also below s3://."""

Settings = Annotated[dict[str, Any], Field(max_length=200)]
"""A configuration of another library, handed on as it is."""
