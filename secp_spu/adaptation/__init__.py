"""The model owner's own step: trains a copy of its checkpoint whose attention and activation are cheap under MPC."""
