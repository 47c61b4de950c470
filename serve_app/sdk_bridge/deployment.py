"""Models into service. The old one serves until the new one is ready, and goes on where that one is refused."""

from __future__ import annotations

import contextlib
import inspect
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisely.nn.utils import ModelSource, RuntimeType

from serve_app.errors import RequestError
from serve_app.sdk_bridge.base import ServingBase

OF_THE_MODEL = ("checkpoint_info", "model_source", "device", "runtime", "model_precision", "_hardware")  # set before it is loaded
SOURCES = (ModelSource.PRETRAINED, ModelSource.CUSTOM, ModelSource.EXTERNAL)
UNLESS_TOLD = {"model_precision": None, "class_names": None}  # said, or a restart would take those of an earlier model
KINDS = {"device": str, "runtime": str, "model_precision": str, "class_names": list, "model_info": dict}
DOWNLOAD = "model-"  # how the folders of downloaded models begin


class Deployment(ServingBase):
    def deploy_by_api(self, state: Mapping[str, Any]) -> None:
        """What /deploy_from_api does. The SDK's takes the model in service down before it looks at the request.

        Raises:
            RequestError: the model cannot be deployed; what was in service still is.
        """
        given = state.get("deploy_params")
        if not isinstance(given, Mapping) or given.get("model_source") not in SOURCES:
            raise RequestError(
                f"deploy_params={str(given)[:100]!r}: give model_source, one of {', '.join(SOURCES)}, and model_files"
            )
        params = dict(given)
        unknown = params.keys() - inspect.signature(self.load_model).parameters.keys() - {"without_workflow"}
        if unknown:
            raise RequestError(f"deploy_params: {', '.join(sorted(map(str, unknown)))[:100]!r} is not known")
        check_kinds(params)
        with self.deploying:
            if params["model_source"] == ModelSource.PRETRAINED and state.get("model_name"):
                params = self._named(str(state["model_name"]), params)
            check_paths(params.get("model_files"))
            if params["model_source"] == ModelSource.PRETRAINED:
                params["model_info"] = self._check_published(params["model_files"])
            params = self._set_common_deploy_params({"model_info": {}, **params})
            if self.api is not None:
                params["model_files"] = self._download_model_files(params, log_progress=self.gui is not None)
            self._load_model_headless(**params)
            if self.gui is not None:
                self.set_params_to_gui(params)
                self.gui.set_deployed(params["device"])
        self._schedule_freeze_on_inactivity()

    def _named(self, name: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._build_deploy_params_from_api(name, params)
        except ValueError as error:
            names = ", ".join(model["meta"]["model_name"] for model in self.pretrained_models)
            raise RequestError(f"model_name={name[:100]!r}: use one of {names}") from error
        return found

    def _load_model_headless(self, model_files: Any, model_source: str, *arguments: Any, **options: Any) -> None:
        """The former model serves until the new one does; where that fails, it goes on."""
        check_paths(model_files)
        if model_source == ModelSource.PRETRAINED:
            self._check_published(model_files)
        options = UNLESS_TOLD | options
        with self.deploying:
            former = {name: getattr(self, name, None) for name in OF_THE_MODEL}
            before = self.path_in_service
            try:
                super()._load_model_headless(model_files, model_source, *arguments, **options)
            except BaseException:
                if self.path_in_service is before:  # else it serves already, and what failed came after
                    for name, value in former.items():
                        setattr(self, name, value)
                raise
            finally:
                self._remove_unused(before, Path(model_files["checkpoint"]))

    def _remove_unused(self, *checkpoints: Path | None) -> None:
        """The folders of downloaded models that are not in service; what lies elsewhere stays."""
        used = None if self.path_in_service is None else self.path_in_service.parent
        for folder in {path.parent for path in checkpoints if path is not None} - {used}:
            if folder.name.startswith(DOWNLOAD) and folder.parent == Path(self.model_dir):
                shutil.rmtree(folder, ignore_errors=True)

    def _download_pretrained_model(self, model_files: Any, log_progress: bool = True, headless: bool = False) -> dict[str, str]:
        """The SDK's would fetch any url that a request gives, and write to wherever the answer says. Ours are found by name."""
        self._check_published(model_files)
        return dict(model_files)

    def _check_published(self, model_files: Any) -> dict[str, Any]:
        """The row of models.json that has these files."""
        for model in self.pretrained_models:
            if model["meta"]["model_files"] == model_files:
                return dict(model)
        names = ", ".join(model["meta"]["model_files"]["checkpoint"] for model in self.pretrained_models)
        raise RequestError(f"model_files={str(model_files)[:200]}: no published model; their checkpoints are {names}")

    def _download_custom_model(
        self, model_files: Any, log_progress: bool = True, model_source: str = ModelSource.CUSTOM
    ) -> dict[str, str]:
        """Into a folder of its own: a file of the same name may belong to the model in service, which sleeps and must wake."""
        check_paths(model_files)
        with self.deploying:
            home = self._model_dir
            self._model_dir = tempfile.mkdtemp(prefix=DOWNLOAD, dir=home)
            try:
                files: dict[str, str] = super()._download_custom_model(model_files, log_progress, model_source)
            except BaseException as error:
                shutil.rmtree(self._model_dir, ignore_errors=True)
                if isinstance(error, FileNotFoundError):
                    raise RequestError(f"model_files: {error}") from error
                raise
            finally:
                fresh, self._model_dir = Path(self._model_dir), home
            with contextlib.suppress(OSError):
                fresh.rmdir()  # where the file was on this machine already
        return files

    def shutdown_model(self) -> None:
        with self.deploying, self.freezing:
            self._model_served = False  # told to new requests at once, while those under way end
            self.forget()
            self.classes, self._model_meta = None, None
            super().shutdown_model()
            stopped, self.path_in_service = self.path_in_service, None
            self._remove_unused(stopped)

    def _set_model_meta_custom_model(self, model_info: Any) -> None:
        """Classes come from the checkpoint itself; the SDK would take those of a file beside it."""

    def _set_model_meta_external_model(self, classes_path: str | None = None) -> None:
        """As above."""

    def _extract_model_files_from_checkpoint(self, checkpoint_path: str) -> dict[str, Any]:
        """The SDK would write the files embedded in a checkpoint to wherever their names say. We need none of them."""
        return {}

    def export_onnx(self, deploy_params: Any) -> Any:
        raise RequestError(f"runtime={deploy_params.get('runtime')!r}: this app serves with {RuntimeType.PYTORCH}")

    export_tensorrt = export_onnx

    def update_model_meta(self) -> None:
        raise RequestError("no model is deployed: choose one and press Serve, or deploy one by the API")

    def _initialize_app_layout(self) -> None:
        self.gui.device_in_use, self.gui.notices = (lambda: self.device), self.notices
        super()._initialize_app_layout()


def check_kinds(params: Mapping[str, Any]) -> None:
    """Raises RequestError where a parameter is of another type than the SDK and we take for granted."""
    info, names = params.get("model_info"), params.get("class_names")
    given = [(name, params.get(name), kind) for name, kind in KINDS.items()]
    if isinstance(info, dict):
        given += [(f"model_info: {name}", info.get(name), str) for name in ("artifacts_dir", "model_name", "framework_name")]
        given += [("model_info: export", info.get("export"), dict)]
    if isinstance(names, list):
        given += [("class_names", name, str) for name in names]
    for name, value, kind in given:
        if value is not None and not isinstance(value, kind):
            words = {str: "a word", list: "a list of words", dict: "an object"}[kind]
            raise RequestError(f"{name}={str(value)[:100]!r}: give {words}")


def check_paths(model_files: Any) -> None:
    """Raises RequestError where they are no paths of files, or might lead somewhere else."""
    if not isinstance(model_files, Mapping) or not model_files.get("checkpoint"):
        raise RequestError("model_files: give the path of a checkpoint, {'checkpoint': '/.../best.pth'}")
    for kind, path in model_files.items():
        if path is None:
            continue
        parts = path.replace("\\", "/").split("/") if isinstance(path, str) else [".."]
        if ".." in parts or "://" in str(path) or "\0" in str(path) or parts[-1] in ("", "."):
            raise RequestError(f"model_files: {str(kind)[:40]}={str(path)[:100]!r}: give the path of a file, no url and no '..'")
