"""Rule files in, rules out: one dialect a module."""
