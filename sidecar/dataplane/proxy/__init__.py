"""The forwarding proxy: one fixed service behind, streamed both ways."""
