"""The scales of a model's branches as a person reads them: a verdict in words, drawings, one page."""
