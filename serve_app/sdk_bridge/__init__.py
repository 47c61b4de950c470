"""The only package that touches the SDK's internals: its serving app, with our prediction and without its defects.

What is relied on is guarded by tests/test_serve_sdk_bridge.py, which fails when the pinned SDK changes.
"""

from serve_app.sdk_bridge.app import BridgedServing
from serve_app.sdk_bridge.replaced import Requests

__all__ = ["BridgedServing", "Requests"]
