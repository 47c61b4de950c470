"""`python -m tests.local_platform --port 8090 --directory DIR`: the platform until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import threading
from pathlib import Path

from .server import LocalPlatform


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.local_platform", description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--directory", type=Path, help="where everything is kept; without it, all is forgotten at the end")
    arguments = parser.parse_args()
    if not 0 <= arguments.port <= 65535:
        parser.error(f"argument --port: {arguments.port} is not between 0 (any free one) and 65535")
    with LocalPlatform(arguments.directory, port=arguments.port) as platform:
        print(f"local platform at {platform.address}, token {platform.token}", flush=True)
        for name, value in platform.environment().items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
