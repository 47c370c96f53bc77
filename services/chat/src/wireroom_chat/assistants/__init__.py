"""The assistants that are shipped, as YAML."""
