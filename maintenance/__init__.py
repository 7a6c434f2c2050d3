"""What keeps pages and releases true: generated pages and the check before a release."""
