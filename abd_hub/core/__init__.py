"""Every other room stands on this one: contracts, records, errors and files, without networks or images."""
