"""The only place that touches the SDK's internals: its train app, with our cards, our data and our training put in.

What is relied on is guarded by tests/test_sdk_bridge.py, which fails when the pinned SDK changes.
"""

from train_app.sdk_bridge.app import BridgedTrainApp

__all__ = ["BridgedTrainApp"]
