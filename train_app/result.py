"""What came out of a training, as HTML: where it is, and how the model is put to use."""

from __future__ import annotations

import html
from collections.abc import Mapping

LINK = '<a href="{address}" target="_blank">{text}</a>'


def result_html(directory: str, task_id: int, addresses: Mapping[str, str]) -> str:
    """Args:
    directory: of the experiment in Team Files.
    addresses: of its files, by their place in the directory.
    """
    lines = [f"<b>Experiment</b>: Team Files, {html.escape(directory)}"]
    if "report.html" in addresses:
        report = LINK.format(address=html.escape(addresses["report.html"]), text="report.html")
        lines.append(f"<b>Report</b>: {report} (figures, curves, the worst and the most uncertain photos)")
    best = f"{directory}checkpoints/best.pth"
    if "checkpoints/best.pth" in addresses:
        checkpoint = LINK.format(address=html.escape(addresses["checkpoints/best.pth"]), text="best.pth")
        lines.append(f"<b>Checkpoint</b>: {checkpoint}, which loads without executing code")
    lines.append(
        f"<b>Deploy</b>: run the app Serve HRDA, choose <i>Custom models</i>, the experiment of task {task_id}, and best.pth"
    )
    lines.append(f"or from a script: <code>sly.Api.from_env().nn.deploy(model={html.escape(repr(best))})</code>")
    return "<br>".join(lines)
