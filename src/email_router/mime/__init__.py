"""Mail as bytes and as meaning: identity, parse, compose, addresses, HTML. Pure; reads only `Content` streams."""
