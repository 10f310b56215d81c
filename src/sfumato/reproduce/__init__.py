"""Reproduce: one file per published system, with its claims, its check and its figures. Importing needs no torch."""

from .catalogue import CATALOGUE, GROUPS, Entry
from .claims import Claim, Measured, Row, System
from .runner import Context, Report, execute, last_report

__all__ = [
    "CATALOGUE",
    "GROUPS",
    "Claim",
    "Context",
    "Entry",
    "Measured",
    "Report",
    "Row",
    "System",
    "execute",
    "last_report",
]
