"""Lightning modules, callbacks and the run itself."""
