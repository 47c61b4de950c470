"""One call of the API: what a method gets, and how it refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from starlette.datastructures import UploadFile

if TYPE_CHECKING:
    from .server import LocalPlatform
    from .store import Store


class Refusal(Exception):
    """An answer with an error status, in the form that the SDK prints and parses."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message, "details": {"message": message, **details}}


@dataclass
class Call:
    platform: LocalPlatform
    method: str
    body: Any  # the JSON: a dict, or for few methods a list
    query: Mapping[str, str] = field(default_factory=dict)
    form: list[tuple[str, str | UploadFile]] = field(default_factory=list)  # multipart, in order, names may repeat
    upload: IO[bytes] | None = None  # a raw body
    task_id: int | None = None  # the app that calls, if it says so

    @property
    def store(self) -> Store:
        return self.platform.store

    def __getitem__(self, name: str) -> Any:
        """A field that the method cannot do without, from the body or the query."""
        if isinstance(self.body, dict) and self.body.get(name) is not None:
            return self.body[name]
        if name in self.query:
            return self.query[name]
        raise Refusal(400, f"{self.method}: the field {name!r} is missing")

    def get(self, name: str, default: Any = None) -> Any:
        value = self.body.get(name) if isinstance(self.body, dict) else None
        return self.query.get(name, default) if value is None else value


Method = Callable[[Call], Any] | Callable[[Call], Awaitable[Any]]
