"""Stacked device tensors of all slots, a module for each kind of operation, and the batched products over them."""
