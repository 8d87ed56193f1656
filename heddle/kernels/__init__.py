"""Arithmetic on packed weights: block formats and, per device, the products that read them."""
