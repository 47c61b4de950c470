"""The network that a user chose in the wizard, and the files of weights that go with it, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import supervisely as sly

from hrda_core import TrainConfig
from hrda_core.data.parallel import Stop
from train_app.checkpoint_check import check_encoder_weights, describe_network
from train_app.settings import ModelChoice
from train_app.team_files import Show, fetch_file

if TYPE_CHECKING:
    from train_app.sdk_bridge.model_card import ModelCard


class ModelFiles:
    """folder: where files of Team Files are downloaded to; one that is there is not downloaded again.

    All but `is_custom` raise UserError where a file does not exist or does not fit, and Stopped where `stop()` became true.
    """

    def __init__(self, api: sly.Api, team_id: int, card: ModelCard, folder: Path, show: Show, stop: Stop) -> None:
        self._api, self._team_id, self._card, self._folder = api, team_id, card, folder
        self._show, self._stop = show, stop

    def is_custom(self) -> bool:
        return bool(self._card.get_model_source() == sly.nn.utils.ModelSource.CUSTOM)

    def choice(self) -> ModelChoice:
        """The row of the model table, perhaps with a file of Team Files; or the checkpoint of an experiment. Files downloaded."""
        if self.is_custom():
            return ModelChoice(checkpoint=self._fetch(self._card.get_checkpoint_link()))
        kind, path = self._card.file()
        local = self._fetch(path) if path else None
        files = {"start_from": "checkpoint", "pretrained_file": "pretrained_file"}
        return ModelChoice(self._card.encoder(), **({files[kind]: local} if local is not None else {}))

    def check(self, kind: str, path: str) -> str:
        """What a chosen file of weights holds; it is downloaded, whether or not a training was stopped, and used at Start."""
        local = self._fetch(path, lambda: False)
        encoder = self._card.encoder()
        return check_encoder_weights(local, encoder) if kind == "pretrained_file" else describe_network(local, encoder)

    def with_local_weights(self, config: TrainConfig) -> TrainConfig:
        """`model.pretrained_file` may be a file of the agent, or one in Team Files."""
        path = config.model.pretrained_file
        if not path or Path(path).is_file():
            return config
        return config.updated({"model": {"pretrained_file": str(self._fetch(path))}})

    def _fetch(self, remote: str, stop: Stop | None = None) -> Path:
        return fetch_file(self._api, self._team_id, remote, self._folder, self._show, stop or self._stop)
