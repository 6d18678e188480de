"""Contract suites and fault injection for whoever adds a codec, a format or a store."""
