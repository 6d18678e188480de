"""What models that were made from others keep: healing, adapters on compressed models."""
