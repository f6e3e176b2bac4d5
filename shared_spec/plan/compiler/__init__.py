"""Spec to plan: the one place that knows the topology of residual networks.

What layers are called is in `shared_spec.plan.names`.
"""

from shared_spec.plan.compiler.net import compile_plan as compile_plan
