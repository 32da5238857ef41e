"""What everything else stands on: contracts, records, errors, files; no network and no image in here."""
