"""Fusions alone, trained on features of a frozen backbone: when do the branches' scales matter? See evidence.probe."""
