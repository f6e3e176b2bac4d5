"""`python -m resnet_parity.worker PACKAGE DEVICE`: what an engine's process runs."""

from resnet_parity.worker.operations import OPERATIONS
from resnet_parity.worker.server import serve

serve(OPERATIONS)
