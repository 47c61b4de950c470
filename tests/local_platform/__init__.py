"""A loopback server that speaks the part of the Supervisely API that this project needs, to the unmodified SDK."""

from .server import LocalPlatform

__all__ = ["LocalPlatform"]
