"""Answers of many parts, for the bulk downloads: the name of a part is the id (or hash) of what it holds."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from starlette.responses import Response


def multipart(parts: Iterable[tuple[str, bytes]]) -> Response:
    boundary = uuid.uuid4().hex
    body = bytearray()
    for name, content in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        body += content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return Response(bytes(body), media_type=f"multipart/form-data; boundary={boundary}")
