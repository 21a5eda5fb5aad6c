"""The forwarding proxy: one upstream; requests and responses are streamed."""
