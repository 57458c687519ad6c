"""The report of a run: one page for people, JSON for programs, JUnit XML for continuous integration.

Not here: judging. A report shows a record as it is, and needs nothing but the record.
"""

from chaos.report.files import write
from chaos.report.junit import junit
from chaos.report.page import page

__all__ = ["junit", "page", "write"]
