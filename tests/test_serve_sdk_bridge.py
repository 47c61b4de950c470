"""What serve_app/sdk_bridge relies on in the SDK. It fails when the pinned SDK changes: read what changed, then adapt both."""

from __future__ import annotations

import inspect
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from supervisely.nn.inference import gui, inference, uploader
from supervisely.nn.inference.cache import InferenceImageCache
from supervisely.nn.inference.gui.serving_gui_template import ServingGUITemplate
from supervisely.nn.inference.inference import Inference
from supervisely.nn.inference.inference_request import InferenceRequest, InferenceRequestsManager

from serve_app.image_cache import ImageCache
from serve_app.image_routes import REPLACED
from serve_app.sdk_bridge import BridgedServing
from serve_app.sdk_bridge.deployment import OF_THE_MODEL

ROOT = Path(__file__).parents[1]
SOURCE = inspect.getsource(inference)


def parameters(function: object) -> str:
    return " ".join(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_sdk_is_the_pinned_one() -> None:
    pinned = re.search(r"^supervisely\[model-benchmark\]==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned is not None and version("supervisely") == pinned[1]


@pytest.mark.parametrize(
    ("owner", "method", "expected"),
    [
        (Inference, "_load_model_headless", "self model_files model_source model_info device runtime kwargs"),
        (Inference, "_load_model", "self deploy_params"),
        (Inference, "_download_pretrained_model", "self model_files log_progress headless"),
        (Inference, "_download_custom_model", "self model_files log_progress model_source"),
        (Inference, "shutdown_model", "self"),
        (Inference, "_build_deploy_params_from_api", "self model_name deploy_params"),
        (Inference, "_set_common_deploy_params", "self deploy_params"),
        (Inference, "_download_model_files", "self deploy_params log_progress"),
        (Inference, "set_params_to_gui", "self deploy_params"),
        (Inference, "_set_model_meta_custom_model", "self model_info"),
        (Inference, "_set_model_meta_external_model", "self classes_path"),
        (Inference, "_extract_model_files_from_checkpoint", "self checkpoint_path"),
        (Inference, "_freeze_model", "self"),
        (Inference, "_unfreeze_model", "self"),
        (Inference, "_schedule_freeze_on_inactivity", "self"),
        (Inference, "_initialize_app_layout", "self"),
        (Inference, "_parse_cli_deploy_args", "self"),
        (Inference, "_parse_inference_settings_from_args", "self"),
        (Inference, "_get_deploy_params_from_args", "self"),
        (Inference, "_inference_by_cli_deploy_args", "self"),
        (Inference, "_get_inference_settings", "self state"),
        (Inference, "validate_inference_state", "self state log_error"),
        (Inference, "_inference_auto", "self source settings"),
        (Inference, "_inference_benchmark", "self images_np settings"),
        (Inference, "_inference_images", "self images state inference_request"),
        (Inference, "_inference_image_ids", "self api state inference_request"),
        (Inference, "_inference_project_id", "self api state inference_request"),
        (Inference, "_tracking_by_detection", "self api state inference_request"),
        (Inference, "_inference_video", "self path state inference_request"),
        (Inference, "_inference_video_id", "self api state inference_request"),
        (Inference, "_format_output", "self predictions"),
        (Inference, "_run_server", "self"),
        (Inference, "serve", "self"),
        (InferenceRequestsManager, "create", "self inference_request_uuid"),
        (InferenceRequestsManager, "get", "self inference_request_uuid"),
        (InferenceRequestsManager, "run", "self func args kwargs"),
        (InferenceRequestsManager, "schedule_task", "self func args kwargs"),
        (InferenceRequest, "is_stopped", "self"),
        (InferenceImageCache, "download_image", "self api image_id related"),
        (InferenceImageCache, "download_images", "self api dataset_id image_ids kwargs"),
        (InferenceImageCache, "_parse_state", "self state"),
        (uploader.Uploader, "join", "self timeout"),
        (ServingGUITemplate, "_initialize_extra_widgets", "self"),
        (ServingGUITemplate, "get_params_from_gui", "self"),
        (ServingGUITemplate, "deploy_with_current_params", "self"),
        (ServingGUITemplate, "set_deployed", "self device"),
    ],
)
def test_signatures(owner: type, method: str, expected: str) -> None:
    assert parameters(getattr(owner, method)) == expected


def test_uploads_of_predictions() -> None:
    """`upload_predictions` fills what the SDK's would fill itself, under the same names."""
    source = inspect.getsource(Inference.upload_predictions)
    assert parameters(Inference.upload_predictions).startswith(
        "self predictions api upload_mode context dst_dataset_id dst_project_id"
    )
    for text in ('context.setdefault("annotation", {})', 'if pred.image_id not in context["annotation"]', '"project_meta"'):
        assert text in source


def test_names_that_are_replaced_are_looked_up_where_we_put_ours() -> None:
    assert "self.cache = InferenceImageCache(" in SOURCE
    assert "self.inference_requests_manager = InferenceRequestsManager(executor=" in SOURCE
    assert "with Uploader(upload_f, logger=logger)" in SOURCE
    assert "self._gui = GUI.ServingGUITemplate(" in SOURCE and inference.GUI is gui
    assert "torch.load(checkpoint_path" in inspect.getsource(inference.torch_load_safe)
    for name in ("VideoFrameReader", "Prediction"):
        assert hasattr(inference, name)


def test_what_is_restored_where_a_model_is_refused_is_what_the_sdk_sets_before_it_loads_one() -> None:
    source = inspect.getsource(Inference._load_model).split("self.load_model(")[0]
    assert set(re.findall(r"self\.(\w+) = ", source)) | {"checkpoint_info"} == set(OF_THE_MODEL)
    assert "self._model_dir" in inspect.getsource(Inference.model_dir.fget)  # type: ignore[attr-defined]
    assert "os.path.join(self.model_dir, file_name)" in inspect.getsource(Inference._download_custom_model)


def test_routes_that_are_replaced_exist() -> None:
    for path in REPLACED:
        assert f'@server.post("{path}")' in SOURCE, path


def test_what_a_subclass_must_not_shadow_unknowingly() -> None:
    """Everything of ours with the SDK's name is meant: a new method of the SDK would be replaced without a word."""
    parts = [base for base in BridgedServing.__mro__ if base.__module__.startswith("serve_app")]
    ours = {name for part in parts for name in vars(part) if not name.startswith("__")}
    shadowed = {name for name in ours if any(name in vars(base) for base in BridgedServing.__mro__ if base not in parts)}
    assert shadowed == {
        *("DEFAULT_BATCH_SIZE", "_load_model_headless", "shutdown_model", "_set_model_meta_custom_model", "export_tensorrt"),
        *("_set_model_meta_external_model", "_extract_model_files_from_checkpoint", "export_onnx", "update_model_meta"),
        "_schedule_freeze_on_inactivity",
        *("_freeze_model", "_unfreeze_model", "_initialize_app_layout", "_parse_cli_deploy_args", "_get_deploy_params_from_args"),
        *("_parse_inference_settings_from_args", "_inference_by_cli_deploy_args", "is_batch_inference_supported"),
        *("_get_inference_settings", "validate_inference_state", "_inference_auto", "_inference_benchmark", "_inference_images"),
        *("_format_output", "_inference_image_ids", "_inference_project_id", "_inference_video", "_inference_video_id"),
        *("_download_pretrained_model", "_download_custom_model"),
        *("upload_predictions", "_tracking_by_detection", "serve", "_run_server", "get_batch_size"),
    }
    cache = {name for name in vars(ImageCache) if any(name in vars(base) for base in ImageCache.__mro__[1:])}
    assert cache - {"__module__", "__doc__"} == {"__init__", "download_image", "download_images", "_parse_state"}


def test_the_apps_are_described_as_the_platform_reads_it() -> None:
    root = json.loads((ROOT / "config.json").read_text())
    assert root["type"] == "collection" and root["framework"]["name"] == "HRDA"
    for app in root["apps"]:
        config = json.loads((ROOT / app / "config.json").read_text())
        assert config["type"] == "app" and "framework:HRDA" in config["categories"]
        assert all((ROOT / app / file).is_file() for file in config["files"].values())
        module, name = re.search(r"uvicorn (\S+):(\w+)\.app ", config["entrypoint"]).groups()  # type: ignore[union-attr]
        assert f"{name} = " in (ROOT / f"{module.replace('.', '/')}.py").read_text()
