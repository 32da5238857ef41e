"""What leaves this machine: model cards, exported banks, uploads."""
