"""Files of labels: write, read, append, verify, recover, account. Joins format, codecs and entropy."""
