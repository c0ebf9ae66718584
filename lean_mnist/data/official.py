"""Hashes of the official data sets: files of the same name with other content are never taken for them unnoticed.

Known are those that could be established; a data set that is missing here is of unknown origin wherever it comes from.
"""

from enum import Enum


class Origin(Enum):
    """Where data come from, as far as their content shows it."""

    OFFICIAL = "official"  # every example of both splits is that of the official files
    UNKNOWN = "unknown"


PARTS = ("training images", "training labels", "test images", "test labels")

#: SHA-256 of the unpacked IDX file of each of ``PARTS``; for ``digits`` of those that certificates write.
FILES: dict[str, tuple[str, str, str, str]] = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "digits": (
        "5553194a2c3035ccdbcca666c6d57d689bcd30eb1008d89df7d2a420f3f99aca",
        "758ea24dda58850b7a23dc99bf34b7d9eb0e6b680563fbe5406b73b826d71243",
        "47b60a4cc7331c65fcc4f43274e67ae4228677489b5d49413fc3f0036656cfd6",
        "34128b0eac0fff7f74f52eea4c879f532d754c733fdf8ef29f74075e51a5611f",
    ),
}

#: ``Dataset.fingerprint`` of the same data, by which they are known without being hashed once more.
FINGERPRINTS: dict[str, str] = {
    "mnist": "7e7fce5ba8cc6f9049d0c4c721ac501da22392bcf8db7206c16808a2c0fe5c2e",
    "digits": "b373fc17e151bcecc231747e5c9e29d521be7b4f0cd22dde91150b2bdfa04113",
}
