"""Tasks: one file each, saying which data, model, objective, metrics and media belong together."""

from hyperkit.registry import Registry
from hyperkit.tasks.base import Task

TASKS = Registry(
    "task",
    {
        "nvs": "hyperkit.tasks.nvs:NVSTask",
        "segment": "hyperkit.tasks.segment:SegmentTask",
        "image": "hyperkit.tasks.image:ImageTask",
        "audio": "hyperkit.tasks.audio:AudioTask",
        "distill": "hyperkit.tasks.distill:DistillTask",
        "pretrain": "hyperkit.tasks.pretrain:PretrainTask",
    },
)

__all__ = ["TASKS", "Task"]
