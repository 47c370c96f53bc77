"""Documents, articles, index, retrieval and citations."""
