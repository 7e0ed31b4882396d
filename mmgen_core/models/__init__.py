"""Neural nets, one file per architecture: a params dataclass and a module built from operations."""
