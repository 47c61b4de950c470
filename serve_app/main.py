"""Serve HRDA, the app: `python3 -m uvicorn serve_app.main:model.app` from the repository's root, or as a command line."""

from __future__ import annotations

import sys

from serve_app.command_line import MODES
from serve_app.errors import RequestError
from serve_app.model import ServeHRDA

try:
    model = ServeHRDA(use_gui=sys.argv[1:2] not in ([mode] for mode in MODES))
    model.serve()
except RequestError as error:
    sys.exit(f"error: {error}")
