"""Does it help?  Several losses, several seeds, and what a sceptic may conclude from them."""
