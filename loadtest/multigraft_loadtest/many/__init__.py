"""Many tasks: more in use than slots, first uses, and thousands that are registered."""
