"""What a training leaves in Team Files: checkpoints, figures, the platform's own report, and nothing of an earlier start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import supervisely as sly
from supervisely.api.file_api import FileInfo
from supervisely.nn.training import resume_manifest

from train_app.errors import UserError
from train_app.sdk_bridge.base import FRAMEWORK, TrainBase
from train_app.sdk_bridge.evaluation import serving
from train_app.team_files import upload_files


class Uploading(TrainBase):
    """The SDK's last steps, with ours in their place."""

    def _preprocess_artifacts(self, experiment_info: dict[str, Any], model_meta: sly.ProjectMeta) -> dict[str, Any]:
        """The SDK skips a checkpoint that it cannot write, with a line in its log."""
        names = {Path(path).name for path in experiment_info["checkpoints"]}
        result: dict[str, Any] = super()._preprocess_artifacts(experiment_info, model_meta)
        lost = names - {Path(path).name for path in result["checkpoints"]}
        if lost:
            raise UserError(
                f"{', '.join(sorted(lost))} could not be written to {self.output_dir}; free space on the agent's disk and start "
                f"the task again: it goes on where it was"
            )
        return result

    def _upload_file_to_team_files(self, local_path: str, remote_path: str, message: str) -> FileInfo | None:
        """By the SDK's asynchronous upload: the other one waits for ever when the platform answers with an error once."""
        self.view.say(f"{message} ...")
        upload_files(self._api, self.team_id, [local_path], [remote_path])
        return self._api.file.get_info_by_path(self.team_id, remote_path)

    def _upload_artifacts(self, resume: bool = False) -> Any:
        """Into the directory that has the checkpoints of this task already, and without what is there."""
        self._resume_ctx = {**(self._resume_ctx or {}), "remote_dir": self.remote_directory}
        checkpoints = {path.name for path in Path(self._output_checkpoints_dir).glob("*.pth")}
        for info in self._api.file.list(self.team_id, f"{self.remote_directory}checkpoints/", return_type="fileinfo"):
            if info.name not in checkpoints:  # of an earlier start of this task
                self._api.file.remove(self.team_id, info.path)
        return super()._upload_artifacts(resume=True)

    @property
    def remote_directory(self) -> str:
        return f"/{self._experiments_dir_name}/{self.project_id}_{self.project_name}/{self.task_id}_{FRAMEWORK}/"

    def _generate_train_val_splits(self, remote_dir: str, splits_data: dict[str, Any]) -> None:
        path = Path(self.output_dir) / "train_val_split.json"
        sly.json.dump_json_file(self.split_ids(), str(path))
        self._upload_file_to_team_files(str(path), f"{remote_dir.rstrip('/')}/{path.name}", f"Uploading {path.name}")

    def _generate_experiment_info(self, remote_dir: str, experiment_info: dict[str, Any], *more: Any) -> dict[str, Any]:
        evaluation, report_id, link, metric, export = more
        figures, primary = self.figures()
        result: dict[str, Any] = super()._generate_experiment_info(
            remote_dir, experiment_info, evaluation or figures, report_id, link, metric or primary, export
        )
        split = self.split_ids()
        additions = {
            "train_val_split": "train_val_split.json",
            "train_size": len(split["train"]),
            "val_size": len(split["val"]),
            "target_size": len(split["target"]),
        }
        preview = result.pop("project_preview", None)
        result |= additions
        path = Path(self.output_dir) / self._experiment_json_file
        sly.json.dump_json_file(result, str(path))
        self._upload_file_to_team_files(str(path), f"{remote_dir.rstrip('/')}/{path.name}", f"Uploading {path.name}")
        return {**result, "project_preview": preview}

    def _run_model_benchmark(
        self,
        local_artifacts_dir: str,
        remote_artifacts_dir: str,
        experiment_info: dict[str, Any],
        splits_data: dict[str, Any],
        model_meta: sly.ProjectMeta,
        gt_project_id: int | None = None,
    ) -> tuple[Any, ...]:
        """The platform's own evaluation, on the validation images; where it cannot run the user is told why."""
        reason = self.why_no_benchmark()
        result: tuple[Any, ...] = (None, None, None, {}, None)
        if not reason:
            split = self.split_ids()
            parts = {name: {"dataset_ids": None, "images_ids": split[name]} for name in ("train", "val")}
            info = {**experiment_info, "framework_name": FRAMEWORK, "artifacts_dir": remote_artifacts_dir}
            info["model_meta"] = model_meta.to_json()
            folder = Path(self.work_dir) / "serving"
            try:
                with serving(Path(experiment_info["best_checkpoint"]), self.device, info, folder) as self._inference_class:
                    project = self.benchmark_project()
                    result = super()._run_model_benchmark(
                        local_artifacts_dir, remote_artifacts_dir, experiment_info, parts, model_meta, project
                    )
            except UserError as error:
                reason = str(error)
            if result[1] is None:
                reason = reason or "it failed, and the task's log says how"
        if reason:
            text = f"The platform's own evaluation report was not made: {reason}. Our figures are in report.html."
            self.view.notice(text)
            sly.logger.warning(text)
        return result

    def _export_weights(self, experiment_info: dict[str, Any]) -> Any:
        """The SDK's list of the exported model's classes lacks the background."""
        weights, classes = super()._export_weights(experiment_info)
        if classes is not None:
            names = [item.name for item in self.model_meta().obj_classes]
            sly.json.dump_json_file(dict(enumerate(names)), classes)
        return weights, classes

    def _get_resume_app_state(self, experiment_info: dict[str, Any]) -> dict[str, Any]:
        """The SDK's would put its own section "input" over ours."""
        return {**self.get_app_state(experiment_info), "start_training": False}

    def has_pending_upload(self) -> bool:
        """A former process of this task trained, and its upload is not complete."""
        manifest = resume_manifest.load(self.work_dir, self.task_id)
        if manifest is not None and not self._is_resume_upload:
            # the cards could not be filled in again, say since a class was renamed; the upload does not need them
            self._resume_ctx, self._is_resume_upload = manifest, True
        return manifest is not None
