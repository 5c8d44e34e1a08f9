"""Embedding providers: one vendor a module, each imported only when it is chosen."""
