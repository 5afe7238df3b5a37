"""What a decoder is trained for: tasks and their losses.

A task of your own is one file: a subclass of Task with the decorator `register`. Import it, and MODEL.TASKS.NAMES knows
its name. tests/tasks/mean_colour.py is an example.
"""

from .base import Metric, Task
from .depth import DepthTask
from .edges import EdgesTask
from .human_parts import HumanPartsTask
from .instances import InstancesTask
from .interaction import Interaction, register_interaction
from .normals import NormalsTask
from .pad_net import PadNet
from .registry import TASKS, build_tasks, register, task_names
from .saliency import SaliencyTask
from .semantic import SemanticTask

__all__ = [
    "TASKS",
    "DepthTask",
    "EdgesTask",
    "HumanPartsTask",
    "Interaction",
    "InstancesTask",
    "Metric",
    "NormalsTask",
    "PadNet",
    "SaliencyTask",
    "SemanticTask",
    "Task",
    "build_tasks",
    "register",
    "register_interaction",
    "task_names",
]
