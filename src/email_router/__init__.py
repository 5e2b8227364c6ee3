"""Email Router: connects any mail system with any CRM.

Start reading at `ARCHITECTURE.md`, then `incoming/flow.py` and `outgoing/flow.py`.
"""

__version__ = "0.1.0"
