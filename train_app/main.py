"""Train HRDA, the app: `python3 -m uvicorn train_app.main:train.app` from the repository's root."""

from __future__ import annotations

from train_app.train_hrda import TrainHRDA

train = TrainHRDA()
