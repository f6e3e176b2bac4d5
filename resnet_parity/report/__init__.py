"""A report: what check, trace and bench found, on one page that needs no network."""

from resnet_parity.report.collect import Files, Net, ReportSettings, collect
from resnet_parity.report.overview import sentence, verdict
from resnet_parity.report.page import render, write

__all__ = ["Files", "Net", "ReportSettings", "collect", "render", "sentence", "verdict", "write"]
