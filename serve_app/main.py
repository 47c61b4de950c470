"""Serve HRDA, the app: `python3 -m uvicorn serve_app.main:model.app` from the repository's root, or as a command line."""

from __future__ import annotations

import sys

from serve_app.command_line import is_command_line, notice, parse_arguments
from serve_app.errors import RequestError
from serve_app.model import ServeHRDA

try:
    arguments, _ = parse_arguments(sys.argv)  # ends here where they are wrong, or ask for help
    if notice(arguments):
        print(notice(arguments), file=sys.stderr)
    model = ServeHRDA(use_gui=not is_command_line(sys.argv))
    model.serve()
except RequestError as error:
    sys.exit(f"error: {error}")
