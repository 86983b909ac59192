"""Images for classification."""
