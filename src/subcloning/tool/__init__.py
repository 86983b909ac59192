"""From a big checkpoint to a small one: `subclone PARENT OUT --width 0.5`."""
