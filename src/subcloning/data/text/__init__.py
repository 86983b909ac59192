"""Text for language modelling."""
