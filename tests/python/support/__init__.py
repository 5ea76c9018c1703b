"""What several test packages share, one subject a module."""
