"""`python -m serve_app.main deploy | predict`, without the SDK's ways of reading files and checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from supervisely.nn.utils import ModelSource, RuntimeType

from serve_app.command_line import parse_arguments, predict_files
from serve_app.errors import RequestError
from serve_app.sdk_bridge.base import ServingBase


class FromCommandLine(ServingBase):
    def _parse_cli_deploy_args(self) -> tuple[Any, bool]:
        return parse_arguments(sys.argv)

    def _get_deploy_params_from_args(self) -> tuple[dict[str, Any], bool]:
        """The SDK's would unpickle the checkpoint to see what it is."""
        choice = self._args
        params = {
            "device": choice.device,
            "runtime": RuntimeType.PYTORCH,
            "model_precision": choice.precision,
            "class_names": choice.class_names,
        }
        known = {model["meta"]["model_name"].lower(): model for model in self.pretrained_models}
        model = known.get(choice.model.lower())
        if model is not None:
            return {
                "model_source": ModelSource.PRETRAINED,
                "model_files": model["meta"]["model_files"],
                "model_info": model,
            } | params, False
        path = Path(choice.model)
        info = {"model_name": path.stem, "framework_name": self.FRAMEWORK_NAME, "artifacts_dir": str(path.parent.parent)}
        custom = {"model_source": ModelSource.CUSTOM, "model_files": {"checkpoint": choice.model}, "model_info": info}
        if not path.is_file() and self.api is None:
            raise RequestError(f"{choice.model}: there is no such file, and no published model of this name ({', '.join(known)})")
        return custom | params, not path.is_file()

    def _parse_inference_settings_from_args(self) -> None:
        """Done by `parse_arguments`."""

    def _inference_by_cli_deploy_args(self) -> None:
        """The SDK's would read a whole folder into memory, and end at the first broken file."""
        if self._args.input is None:
            super()._inference_by_cli_deploy_args()
        elif not predict_files(self, self._args):
            sys.exit(1)
