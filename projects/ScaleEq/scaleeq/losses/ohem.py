OHEM_KINDS = ("top_k", "threshold")
