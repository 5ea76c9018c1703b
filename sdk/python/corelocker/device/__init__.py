"""A device in software: what the phones do, for development, CI and the tests of the other languages.

software        `SoftwareDevice`: unlock, renew, verify the stored license, restore
unlock_client   the unlock API with its retries
folder          the files of a device
errors          what can go wrong between a device and the service
"""
