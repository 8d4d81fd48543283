"""The audit: measured expected gradients of penalties against exact gradients."""
