"""What a backend reads: layers with every number resolved, and the small tree that they make."""

from shared_spec.plan.network import *  # noqa: F403
