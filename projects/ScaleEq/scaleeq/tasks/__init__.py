"""What a decoder is trained for: tasks and their losses.

A task of your own is one file: a subclass of Task with the decorator `register`. Import it, and MODEL.TASKS.NAMES knows
its name. tests/tasks/mean_colour.py is an example.
"""

from .base import Metric, Task
from .registry import TASKS, build_tasks, register, task_names
from .semantic import SemanticTask

__all__ = ["TASKS", "Metric", "SemanticTask", "Task", "build_tasks", "register", "task_names"]
