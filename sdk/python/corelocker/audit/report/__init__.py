"""The audit as one self-contained HTML page and as JSON.

`verdict` says what the measurements mean. `html` renders the document that `corelocker.audit.run.audit` returns.
"""

from corelocker.audit.report.document import FORMAT, VERSION, plain
from corelocker.audit.report.page import html
from corelocker.audit.report.verdict import verdict
from corelocker.audit.report.wording import number, size

__all__ = ["FORMAT", "VERSION", "html", "number", "plain", "size", "verdict"]
