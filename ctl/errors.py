"""What an error text needs so that clients show the right thing.

The Linux kernel and 9pfuse make an errno of the words they find in an error string, and
"Unknown error 526" or "Numerical result out of range" of any other. The texts that the
contract fixes word for word stay as they are.
"""

from __future__ import annotations

_WORDS = ("busy", "i/o error", "temporarily", "invalid", "not found", "permission denied")

INTERNAL = "i/o error: internal error in the bridge; its log has the details"


def for_clients(text: str) -> str:
    """An engine's error with a word in it that clients know."""
    if any(word in text for word in _WORDS) or text in _FIXED or text.startswith(_BEGINNINGS):
        return text
    return f"i/o error: {text}"


_FIXED = (
    "No model path provided",
    "No model name provided",
    "No prompt provided",
    "too many sessions",
    "no prompt yet",
)
_BEGINNINGS = ("Unknown command: ", "no model loaded")
