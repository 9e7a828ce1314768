"""What people heard in recordings: `annotations` (their tables, as one), `labels` (which hits are right by them)."""
