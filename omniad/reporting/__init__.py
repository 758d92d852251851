"""From finished runs to what people read: measurements, tables, figures and the report."""

from omniad.reporting.complexity import write_complexity
from omniad.reporting.measurements import write_measurements
from omniad.reporting.report import write_report

__all__ = ["write_complexity", "write_measurements", "write_report"]
