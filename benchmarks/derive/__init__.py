"""What models keep that were made from others: healed, with adapters, with fewer heads and neurons."""
