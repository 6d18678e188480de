"""Other stores: how commits get from one machine to another."""
