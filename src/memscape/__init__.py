"""memscape: how much memory does this language model need, and what cluster holds it? Exact, shown, checked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memscape.breakdown import Breakdown, Term
from memscape.catalog import accelerator, accelerators, model, models, precisions
from memscape.cluster import cluster, fewest_devices
from memscape.memory.activations import activations
from memscape.memory.alignment import dpo, grpo, ppo
from memscape.memory.kv_cache import kv_cache
from memscape.memory.parameters import active_parameters, parameters
from memscape.memory.pool import kv_pool
from memscape.memory.timeline import host_memory, memory, timeline
from memscape.memory.training_states import training_states
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.performance import performance
from memscape.problem import Problem
from memscape.readers import read_model
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    from memscape.cluster import Cluster
    from memscape.hardware import Instance, Node, instance, instances, node, nodes
    from memscape.planner import advise, plan, sensitivity, solve, sweep, what_fits

__version__ = "0.1.0"
__all__ = [
    "Breakdown",
    "Cluster",
    "Inference",
    "Instance",
    "Layout",
    "Model",
    "Node",
    "Problem",
    "Term",
    "Training",
    "accelerator",
    "accelerators",
    "activations",
    "active_parameters",
    "advise",
    "cluster",
    "dpo",
    "fewest_devices",
    "grpo",
    "host_memory",
    "instance",
    "instances",
    "kv_cache",
    "kv_pool",
    "memory",
    "model",
    "models",
    "node",
    "nodes",
    "parameters",
    "performance",
    "plan",
    "ppo",
    "precisions",
    "read_model",
    "sensitivity",
    "solve",
    "sweep",
    "timeline",
    "training_states",
    "weights",
    "what_fits",
]
# loaded when they are asked for, so that the import stays light
LATER = {
    "cluster": ("Cluster",),
    "hardware": ("Instance", "Node", "instance", "instances", "node", "nodes"),
    "planner": ("advise", "plan", "sensitivity", "solve", "sweep", "what_fits"),
}


def __getattr__(name: str) -> Any:
    """Load servers, bills and plans at first use."""
    for module, names in LATER.items():
        if name in names:
            return getattr(import_module(f"memscape.{module}"), name)
    raise AttributeError(f"module 'memscape' has no attribute {name!r}")
