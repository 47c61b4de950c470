"""Experiments that were saved after the page was made: the SDK's selector reads Team Files once, when the app starts."""

from __future__ import annotations

from supervisely.app.widgets.experiment_selector.experiment_selector import ExperimentSelector
from supervisely.nn.experiments import get_experiment_infos


def add_new_experiments(selector: ExperimentSelector, framework: str) -> int:
    """Puts the ones that the table lacks on top of it -> how many. Nothing is selected afterwards where there are any."""
    known = {row.task_id for row in selector._rows}
    infos = [info for info in get_experiment_infos(selector.api, selector.team_id, framework) if info.task_id not in known]
    selector._project_infos_map |= selector._get_project_infos_map(infos)
    rows = sorted(selector._generate_table_rows(infos), key=lambda row: int(row.task_id))
    if rows:
        selector.table.clear_selection()  # it is by position
    for row in rows:
        selector._rows.insert(0, row)
        selector.table.insert_row(row.to_table_row(), 0)
    selector._experiment_infos = [row._experiment_info for row in selector._rows]
    selector._update_value_index_map()
    selector._update_search_text()
    selector._update_sort_values()
    return len(rows)
