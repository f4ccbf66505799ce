"""The verbs that LangGraph's own savers lack: `copy_thread`, `prune` and `delete_for_runs`.

A saver's interface has no way to delete one checkpoint, nor to read what a write was filed under, so these
reach into the tables of the savers that are known here. A class derived from one of them counts as that
one as long as it deletes threads as that one does: who keeps more, or elsewhere, has to delete more.
"""

from agentref.adapters.langgraph.offered.verbs import offered_verbs

__all__ = ["offered_verbs"]
