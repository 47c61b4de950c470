"""The SDK's serving app, with our prediction and without its defects."""

from __future__ import annotations

import uvicorn

from serve_app.sdk_bridge.deployment import Deployment
from serve_app.sdk_bridge.from_command_line import FromCommandLine
from serve_app.sdk_bridge.projects import IntoProjects
from serve_app.sdk_bridge.requests_in_line import RequestsInLine
from serve_app.sdk_bridge.sleeping import Sleeping


class BridgedServing(Deployment, Sleeping, FromCommandLine, RequestsInLine, IntoProjects):
    """A subclass gives the methods of `ServingBase`'s first section."""

    def serve(self) -> None:
        super().serve()  # of a command line, it returns when the server has ended
        self._add_routes_once()

    def _run_server(self) -> None:
        self._add_routes_once()
        config = uvicorn.Config(self._app, self._args.host, self._args.port, ws="websockets")
        self._uvicorn_server = uvicorn.Server(config)
        self._uvicorn_server.run()

    def _add_routes_once(self) -> None:
        if not getattr(self, "_has_our_routes", False):
            self._has_our_routes = True
            self.add_routes(self._app.get_server())
