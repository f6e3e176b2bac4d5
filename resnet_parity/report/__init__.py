"""A report: what check, trace and bench found, on one page that needs no network."""

from resnet_parity.report.against import Against, compare, read_report, sentences, to_dict
from resnet_parity.report.collect import Files, Net, ReportSettings, collect
from resnet_parity.report.overview import sentence, verdict
from resnet_parity.report.page import render, write

__all__ = [
    "Against",
    "Files",
    "Net",
    "ReportSettings",
    "collect",
    "compare",
    "read_report",
    "render",
    "sentence",
    "sentences",
    "to_dict",
    "verdict",
    "write",
]
