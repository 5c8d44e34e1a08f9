"""Models that read a question and a rule together, and say how well they fit: one file each behind one interface."""
